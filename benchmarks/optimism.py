"""How much too high is the score of the best evaluation, and what is it at the step that another seed has found?

    python benchmarks/optimism.py DATA --cache DIR [--sets scierc imdb] [--draws 10]

A draw is 200 labelled rows that train, 50 or 200 that are select_dev, and up to 1000 that stand for test. A search
tries eight networks on the mean-pooled states of MiniLM (rate and length are drawn), and takes the one whose best
evaluation on select_dev is highest. It is trained again on five fresh seeds, each of which is scored by its own best
evaluation (best), by that at the step where the search was best (found_step), and by the last (last). A logistic
regression, chosen alike among eight strengths, has one evaluation. Optimism is the score on select_dev less that on
test, of the same network.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import selection
from selection import Pool, load_pool, score, train_network
from sklearn.linear_model import LogisticRegression

CONFIGURATIONS, FRESH_SEEDS, TRAIN_ROWS, TEST_ROWS = 8, 5, 200, 1000
DEV_ROWS = (50, 200)
EVALUATIONS = (5, 20)  # of a network
WAYS = ("best", "found_step", "last")


def measure(pool: Pool, dev_rows: int, evaluations: int, seed: int) -> dict[str, tuple[float, float]]:
    """Returns the scores on select_dev and on test of each way, means over fresh seeds, in points."""
    selection.EVALUATIONS = evaluations
    generator = np.random.default_rng([dev_rows, evaluations, seed])
    order = generator.permutation(len(pool.texts))
    train, dev = order[:TRAIN_ROWS], order[TRAIN_ROWS : TRAIN_ROWS + dev_rows]
    test = order[TRAIN_ROWS + dev_rows :][:TEST_ROWS]
    rows, y = np.concatenate([dev, test]), pool.labels

    def curves(predictions: np.ndarray) -> np.ndarray:
        """Returns the scores (2, E) on select_dev and on test."""
        parts = ((y[dev], predictions[:, :dev_rows]), (y[test], predictions[:, dev_rows:]))
        return 100 * np.array([[score(pool.metric, labels, each) for each in part] for labels, part in parts])

    def network(drawn: dict[str, Any], seed: int) -> np.ndarray:
        settings = drawn | {"seed": seed, "balanced": False}
        return curves(train_network(settings, pool.states[train], y[train], pool.states[rows]))

    drawn = [
        {"lr": 10 ** generator.uniform(-3, -1), "epochs": int(2 ** generator.uniform(2, 6))}
        for _ in range(CONFIGURATIONS)
    ]
    searched = [network(each, 0) for each in drawn]
    chosen = int(np.argmax([curve[0].max() for curve in searched]))
    found_step = int(searched[chosen][0].argmax())
    fresh = [network(drawn[chosen], 1 + i) for i in range(FRESH_SEEDS)]
    at = {"best": [int(curve[0].argmax()) for curve in fresh], "found_step": [found_step] * FRESH_SEEDS}
    at["last"] = [evaluations - 1] * FRESH_SEEDS
    results = {way: tuple(np.mean([c[:, i] for c, i in zip(fresh, at[way], strict=True)], axis=0)) for way in WAYS}
    linear = []
    for strength in np.logspace(-1, 3, CONFIGURATIONS):
        model = LogisticRegression(C=strength, max_iter=200).fit(pool.states[train], y[train])
        linear.append(curves(model.predict(pool.states[rows])[None])[:, 0])
    return results | {"linear": tuple(max(linear, key=lambda each: each[0]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the texts' encoded states")
    parser.add_argument("--sets", nargs="+", default=["scierc", "imdb"], choices=sorted(selection.SETS))
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args()
    pools = [load_pool(options.data, name, options.cache) for name in options.sets]
    print("| select_dev rows | evaluations | scored by | select_dev | test | optimism |")
    print("| ---: | ---: | --- | ---: | ---: | ---: |")
    for dev_rows in DEV_ROWS:
        for evaluations in EVALUATIONS:
            draws = [measure(pool, dev_rows, evaluations, seed) for pool in pools for seed in range(options.draws)]
            for way in (*WAYS, "linear"):
                scores = np.array([draw[way] for draw in draws])  # (draws, 2)
                excess = scores[:, 0] - scores[:, 1]
                error = 1.96 * excess.std(ddof=1) / len(excess) ** 0.5
                dev, test = scores.mean(axis=0)
                number = 1 if way == "linear" else evaluations
                line = f"{dev_rows} | {number} | {way} | {dev:.1f} | {test:.1f} | {excess.mean():.1f} ± {error:.1f}"
                print(f"| {line} |", flush=True)


if __name__ == "__main__":
    main()
