"""The error of each gradient engine against one plain backward per task, model by model, in float64.

    python benchmarks/parity.py [MODEL ...]

There are K = 4 tasks. The columns are the largest error of the products with a dev gradient v, over the largest
product; the same for norms; and for `difference` also the correlation with the exact products. The models are those of
the tests.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.gradients import TASK_ORDER, dense_gradients, direction, factored_gradients, products_by_forward
from helpers.models import MODEL_ZOO


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error, over the largest number."""
    return float((actual - expected).abs().max() / expected.abs().max())


def main(names: list[str]) -> None:
    print("| model | products | norms | jvp | difference | its correlation |\n" + "| --- " * 6 + "|")
    for name in names:
        torch.manual_seed(0)
        model_case = MODEL_ZOO[name]()
        v, weights = direction(model_case), torch.eye(len(TASK_ORDER), dtype=torch.float64)
        expected = dense_gradients(model_case).summarise(weights, v, norms=True)
        actual = factored_gradients(model_case, 1).summarise(weights, v, norms=True)
        by_forward = {engine: products_by_forward(model_case, engine).double() for engine in ("jvp", "difference")}
        errors = [relative_error(actual.products, expected.products)]
        errors += [relative_error(actual.gramian.diagonal().sqrt(), expected.gramian.diagonal().sqrt())]
        errors += [relative_error(by_forward[engine], expected.products) for engine in ("jvp", "difference")]
        correlation = float(torch.corrcoef(torch.stack([by_forward["difference"], expected.products]))[0, 1])
        cells = " | ".join(f"{error:.0e}" for error in errors)
        print(f"| {name} | {cells} | {correlation:.7f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODEL_ZOO))
