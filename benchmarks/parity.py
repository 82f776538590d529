"""How far each engine is from a plain backward for every gradient, model by model, in float64.

    python benchmarks/parity.py

Of K = 4 tasks: the product with a dev gradient v, largest error over the largest product; and the same of norms. For
`difference` the correlation with the exact products too. The models are those of the tests.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.models import ZOO
from test_products import LINES, by_forwards, direction, plain, segmented


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error, over the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    print("| model | products | norms | jvp | difference | its correlation |\n" + "| --- " * 6 + "|")
    for name, make in ZOO.items():
        torch.manual_seed(0)
        animal = make()
        v, weights = direction(animal), torch.eye(len(LINES), dtype=torch.float64)
        expected = plain(animal).summarise(weights, v, norms=True)
        found = segmented(animal, 1).summarise(weights, v, norms=True)
        forwards = {engine: by_forwards(animal, engine).double() for engine in ("jvp", "difference")}
        cells = [error(found.products, expected.products)]
        cells += [error(found.gramian.diagonal().sqrt(), expected.gramian.diagonal().sqrt())]
        cells += [error(forwards[engine], expected.products) for engine in ("jvp", "difference")]
        correlation = float(torch.corrcoef(torch.stack([forwards["difference"], expected.products]))[0, 1])
        print(f"| {name} | " + " | ".join(f"{cell:.0e}" for cell in cells) + f" | {correlation:.7f} |", flush=True)


if __name__ == "__main__":
    main()
