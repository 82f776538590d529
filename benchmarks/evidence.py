"""The evidence: what each arm scores on the test split of real text sets, with few labels and paired draws of them.

    python benchmarks/evidence.py DATA [--sets scierc reuters_r8] [--sizes 8 32 128] [--draws 0 1 2 3 4]
                                  [--arms tfidf_lr frozen_lr lsa_lr self_train] [--trials 2]
                                  [--output runs/evidence] [--join runs/evidence_trained ...]
                                  [--table docs/results/evidence.md]

A cell is a set and a number of labels a class. For each draw of the labels, every arm that trains the encoder tries
`trials` configurations (the linear ones, which cost little, all of their few), scored by cross-validation. Each arm's
chosen configuration is refitted on all labels, exported as a user would export it, and scored on the test split.
Which arm is recommended is decided without the test split, by the run itself. It can be interrupted: a draw that has a
result is not repeated, and sets whose files DATA lacks are named and left out. The texts come from
`evidence_sets.READERS`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evidence_sets import READERS, DataSet, read_set
from sklearn.metrics import f1_score

import raysearch
from raysearch.export.exporter import export
from raysearch.models.averaging import LOWEST, average, log_probabilities
from raysearch.reports.recommendation import recommend
from raysearch.reports.statistics import bootstrap_interval
from raysearch.storage.run import Run
from raysearch.storage.states import ENSEMBLE_ARM

INCUMBENTS = ("tfidf_lr", "frozen_lr", "setfit", "fine_tune")  # what one would use today: they read labelled text alone
SIZES = (8, 32, 128)  # labels a class
STEPS = 40
LENGTH = 64  # tokens of a text
RATES = {"choice": [1e-4, 3e-4, 1e-3]}
SEARCHED: dict[str, Any] = {  # searched beside the incumbents: which layer of the encoder is read
    "method": {"weighting": "end_task_only", "schedule": "probe"},
    "dimensions": {
        "encoder_layers": {"choice": [3, 4, 5, 6]},
        "probe_c": {"choice": [1.0, 10.0, 100.0]},
        "class_weights": {"choice": ["none", "balanced"]},
    },
    "budget": {"trials": 10},
}
TRAINED = {"trained_layers": 1, "precision": "bfloat16"}  # of the arms that train the encoder: a draw takes minutes
ARMS: dict[str, dict[str, Any]] = {  # what differs from the shipped baselines
    "tfidf_lr": {},
    "frozen_lr": {},
    "lsa_lr": {},
    "self_train": {},
    "setfit": {
        "settings": TRAINED | {"contrast_steps": STEPS, "contrast_pairs": 8},
        "dimensions": {"contrast_lr": RATES},
    },
    "fine_tune": {
        "settings": TRAINED | {"steps": STEPS, "eval_every": STEPS, "batch_size": 16, "head_lr": 1e-3},
        "dimensions": {"lr": RATES},
    },
}
LINEAR = ("tfidf_lr", "frozen_lr", "lsa_lr", "self_train")  # nothing of the encoder is trained
UNLABELLED = 4000  # texts at most, from the set's own unlabelled text, then from the pool without its labels


def draw_labels(data: DataSet, size: int, draw: int) -> list[tuple[str, str]]:
    """Returns `size` rows a class, or as many as the class has, drawn with the seed `draw`."""
    order = np.random.default_rng(1000 + draw).permutation(len(data.pool))
    counts: dict[str, int] = {}
    rows = []
    for i in order:
        text, label = data.pool[i]
        if counts.get(label, 0) < size:
            counts[label] = counts.get(label, 0) + 1
            rows.append((text, label))
    return rows


def write_task(data: DataSet, rows: Sequence[tuple[str, str]], folder: Path) -> dict[str, Any]:
    """Writes the files of a draw and returns the task's declaration."""
    folder.mkdir(parents=True, exist_ok=True)
    labelled = {text for text, _ in rows}
    rest = [text for text, _ in data.pool if text not in labelled]
    unlabelled = (data.unlabelled + rest)[:UNLABELLED]
    for name, part in (("train", rows), ("test", data.test)):
        lines = (json.dumps({"text": text, "label": label}) for text, label in part)
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    text = "\n".join(json.dumps({"text": text}) for text in unlabelled)
    (folder / "domain.jsonl").write_text(text, encoding="utf-8")
    files = {part: str((folder / f"{part}.jsonl").resolve()) for part in ("train", "test", "domain")}
    return {"name": data.name, "metric": "macro_f1", **files}


def declare(task: dict[str, Any], folder: Path, trials: int, arms: Sequence[str]) -> raysearch.Search:
    """Returns the search of a draw."""
    fixed = {arm: ARMS[arm] if arm in LINEAR else ARMS[arm] | {"trials": trials} for arm in arms}
    return raysearch.Search.from_dict(
        {
            "name": "run",
            "runs": str(folder),
            "task": task,
            "model": "minilm",
            "settings": {"trained_layers": 0, "max_length": LENGTH},
            **SEARCHED,
            "baselines": fixed,
            "selection": {"folds": 3},
            "confirm": {"seeds": [101]},
            "ensemble": True,
            "executor": "in_process",
            "keep": 1,
        }
    )


def run_draw(data: DataSet, size: int, draw: int, folder: Path, trials: int, arms: Sequence[str]) -> dict[str, Any]:
    """Runs the search of one draw, exports every arm, and returns test scores and costs by arm."""
    started = time.perf_counter()
    rows = draw_labels(data, size, draw)
    search = declare(write_task(data, rows, folder / "task"), folder, trials, arms)
    shutil.rmtree(folder / "run", ignore_errors=True)
    run = raysearch.launch(search, progress=False)
    choice = run.best_arm()
    test = score_exports(run, folder / "models", [arm for arm in run.arms if arm != ENSEMBLE_ARM], data)
    result = {
        "set": data.name,
        "size": size,
        "draw": draw,
        "labels": len(rows),
        "classes": len({label for _, label in rows}),
        "test": test,
        "choosing": {score.arm: score.score for score in choice.ranked},
        "chosen": recommend(run).arm,
        "leader": choice.best.arm,
        "seconds": seconds_by_arm(run),
        "wall": time.perf_counter() - started,
    }
    shutil.rmtree(folder / "run")
    return result


def score_exports(run: Run, models: Path, arms: Sequence[str], data: DataSet) -> dict[str, float]:
    """Exports every arm, loads what was written, and returns macro-F1 on the test split by arm.

    The ensemble's members are the models of the arms, so that their probabilities are averaged as its own model does.
    """
    texts, labels = [text for text, _ in data.test], [label for _, label in data.test]
    probabilities, names = {}, []
    for arm in arms:
        export(run, models / arm, arm=arm, test=False)
        model = raysearch.load_model(models / arm)
        probabilities[arm], names = model.predict_proba(texts), model.labels
        shutil.rmtree(models / arm)
    rows = run.trials().select(["arm", "plan"]).to_pylist()
    plans = [json.loads(row["plan"]) for row in rows if row["arm"] == ENSEMBLE_ARM]
    if plans:
        members = plans[-1]["members"]
        p = np.stack([probabilities[member["arm"]] for member in members], axis=1)
        log_p = log_probabilities(np.log(np.maximum(p, LOWEST)))
        probabilities[ENSEMBLE_ARM] = average(log_p, np.array([member["weight"] for member in members]))
    return {
        arm: float(f1_score(labels, [names[i] for i in p.argmax(1)], labels=names, average="macro", zero_division=0))
        for arm, p in probabilities.items()
    }


def seconds_by_arm(run: Run) -> dict[str, float]:
    """Returns the measured training seconds that each arm has used, those of its fresh seeds included."""
    seconds: dict[str, float] = {}
    for row in run.trials().select(["arm", "seconds"]).to_pylist():
        seconds[row["arm"]] = seconds.get(row["arm"], 0.0) + (row["seconds"] or 0.0)
    return seconds


# ---- the table ----


PREFACE = """# Evidence: what the exported model is worth

`python benchmarks/evidence.py DATA --table docs/results/evidence.md` writes the tables of this page. Macro-F1 on the
test split (at
most {rows} rows), in percent, mean over draws of the labels; the same draws for every arm. The encoder is MiniLM-L6
(mean pooling, {length} tokens at most).

- `search` tries ten configurations of a probe: which layer of the encoder is read, how strong the penalty is.
- `tfidf_lr` and `frozen_lr` are the shipped incumbents with all their configurations; `setfit` and `fine_tune` train
  the upper layer in bfloat16 for {steps} steps, {trials} learning rates each. They read the labelled texts alone.
- `lsa_lr` and `self_train` also read unlabelled texts, 4000 and 2000 at most ([how](../guide/unlabelled.md)).
- `ensemble` averages the other arms of its run ([how](../guide/ensemble.md)); of a run without `setfit` and
  `fine_tune`, these stand beside it from another run on the same draws, and are no part of it.

Every configuration is scored by cross-validation (3 folds, in a race) on the labelled rows alone; there is no other dev
split. The best of each arm is scored on one fresh partition, by which the run recommends an arm; the test split has no
part in it. Each arm's chosen configuration is trained on all labels and exported, and the exported model is scored.
Bold is the best of tfidf_lr, frozen_lr, setfit and fine_tune in a cell by its mean test score, which nobody could know
beforehand, so that the differences to it are strict. Intervals are bootstrap intervals (95 %, BCa) over draws. A
training of {steps} steps is short; with more compute, setfit and fine_tune would gain. An ensemble needs the training
of every arm of its run, the sum of the seconds below, where an incumbent needs its own alone.

"""


def markdown(results: Sequence[dict[str, Any]], missing: Sequence[str], trials: int, test_rows: int) -> str:
    """Returns the page of all draws so far."""
    cells: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda each: (each["set"], each["size"], each["draw"])):
        cells.setdefault((result["set"], result["size"]), []).append(result)
    arms = list(dict.fromkeys(arm for result in results for arm in result["test"]))
    incumbents = [arm for arm in arms if arm in INCUMBENTS]
    head = ["set", "labels a class", "draws", *arms, "recommended", "recommended minus best incumbent", "wins"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    gains: dict[str, list[float]] = {name: [] for name in ("recommended", *arms, "choice")}
    for (name, size), draws in cells.items():
        scores = {arm: np.array([100 * draw["test"].get(arm, np.nan) for draw in draws]) for arm in arms}
        recommended = np.array([100 * draw["test"][draw["chosen"]] for draw in draws])
        best = max(incumbents, key=lambda arm: np.nan_to_num(scores[arm].mean(), nan=-1.0))
        row = [name, str(size), str(len(draws))]
        row += [f"**{scores[arm].mean():.1f}**" if arm == best else f"{scores[arm].mean():.1f}" for arm in arms]
        row.append(f"{recommended.mean():.1f}")
        row += [_difference(recommended - scores[best]), f"{(recommended > scores[best]).sum()} of {len(draws)}"]
        by_choice = [
            100 * draw["test"][max(INCUMBENTS, key=lambda arm: draw["choosing"].get(arm, -1.0))] for draw in draws
        ]
        for arm, values in {"recommended": recommended, **scores, "choice": np.array(by_choice)}.items():
            gains[arm].append(float((values - scores[best]).mean()))
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", "Minus the best incumbent of the cell, mean over cells with the interval over cells:", ""]
    names = {"search": "the search's winner", "choice": "the incumbent that the run's own scores choose"}
    for arm, gain in gains.items():
        lines.append(f"- {names.get(arm, arm)}: {_difference(np.array(gain))}")
    lines += ["", f"Sets that were not run, because their files are not there: {', '.join(missing) or 'none'}.", ""]
    page = PREFACE + "\n".join([*lines, *_costs(cells, arms), *_choices(cells, arms), *_not_run(cells)])
    facts = {"trials": trials, "rows": test_rows, "steps": STEPS, "length": LENGTH}
    for name, value in facts.items():
        page = page.replace(f"{{{name}}}", str(value))
    return page


def join(results: Sequence[dict[str, Any]], others: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns results with the arms that they lack, from other results of the same draws."""
    joined = {(result["set"], result["size"], result["draw"]): result for result in results}
    for other in others:
        key = other["set"], other["size"], other["draw"]
        if key in joined:
            ours = joined[key]
            merged = {name: {**other[name], **ours[name]} for name in ("test", "choosing", "seconds")}
            joined[key] = {**ours, **merged}
    return list(joined.values())


def _difference(values: np.ndarray) -> str:
    interval = bootstrap_interval([float(value) for value in values])
    text = f"{values.mean():+.1f}"
    return f"{text} [{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else text


def _costs(cells: dict[tuple[str, int], list[dict[str, Any]]], arms: Sequence[str]) -> list[str]:
    """Returns a table of the measured training seconds a draw."""
    lines = ["Measured training seconds of a draw, mean:", "", "| set | labels a class | " + " | ".join(arms) + " |"]
    lines.append("| " + " | ".join(["---"] * (len(arms) + 2)) + " |")
    for (name, size), draws in cells.items():
        means = [np.mean([draw["seconds"].get(arm, np.nan) for draw in draws]) for arm in arms]
        lines.append(f"| {name} | {size} | " + " | ".join(f"{mean:.0f}" for mean in means) + " |")
    return [*lines, ""]


def _choices(cells: dict[tuple[str, int], list[dict[str, Any]]], arms: Sequence[str]) -> list[str]:
    """Returns a table of how often each arm was recommended, and how often the recommendation lost to TF-IDF."""
    lines = ["How often each arm was recommended:", "", "| set | labels a class | " + " | ".join(arms) + " |"]
    lines.append("| " + " | ".join(["---"] * (len(arms) + 2)) + " |")
    for (name, size), draws in cells.items():
        counts = [sum(draw["chosen"] == arm for draw in draws) for arm in arms]
        lines.append(f"| {name} | {size} | " + " | ".join(map(str, counts)) + " |")
    return [*lines, ""]


def _not_run(cells: dict[tuple[str, int], list[dict[str, Any]]]) -> list[str]:
    """Returns what of the whole grid has no draw yet."""
    absent = [f"{name} {size}" for name in READERS for size in SIZES if (name, size) not in cells]
    return [f"Not run yet (set and labels a class): {', '.join(absent) or 'nothing'}.", ""]


# ---- the command ----


def main() -> None:
    """Runs the draws that have no result yet, and writes the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the data root: what shared sets and package clients have left there")
    parser.add_argument("--sets", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="labels a class")
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds of the draws of labels")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="arms beside the search")
    parser.add_argument("--trials", type=int, default=2, help="configurations of an arm that trains the encoder")
    parser.add_argument("--test-rows", type=int, default=400, help="rows of the test split at most")
    parser.add_argument("--output", type=Path, default=Path("runs/evidence"))
    parser.add_argument(
        "--join", type=Path, nargs="+", default=[], help="outputs that have further arms of these draws"
    )
    parser.add_argument("--table", type=Path, help="a Markdown file for the tables")
    options = parser.parse_args()
    missing, data_sets = [], []
    for name in options.sets:
        try:
            data_sets.append(read_set(name, options.data, test_rows=options.test_rows))
        except FileNotFoundError as error:
            missing.append(name)
            print(f"{name}: {error}")
    for draw in options.draws:
        for size in options.sizes:
            for data in data_sets:
                _run_if_missing(data, size, draw, options)
                _write_table(options, missing)


def _run_if_missing(data: DataSet, size: int, draw: int, options: argparse.Namespace) -> None:
    folder = options.output / f"{data.name}-{size}-{draw}"
    if _result(folder).exists() or not _claim(folder):
        return
    result = run_draw(data, size, draw, folder, options.trials, options.arms)
    _result(folder).write_text(json.dumps(result, indent=1), encoding="utf-8")
    scores = "  ".join(f"{arm} {100 * score:.1f}" for arm, score in result["test"].items())
    print(f"{folder.name}: {scores}  recommended {result['chosen']}  {result['wall']:.0f} s", flush=True)


def _result(folder: Path) -> Path:
    return folder / "result.json"


def _claim(folder: Path) -> bool:
    """Returns whether this process may run the draw; several processes may share the output folder."""
    folder.mkdir(parents=True, exist_ok=True)
    claim = folder / "claimed_by"
    try:
        with claim.open("x") as file:
            file.write(str(os.getpid()))
        return True
    except FileExistsError:
        pid = int(claim.read_text() or 0)
        if pid and Path(f"/proc/{pid}").exists():
            return False
        claim.unlink(missing_ok=True)
        return _claim(folder)


def _read_results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]


def _write_table(options: argparse.Namespace, missing: Iterable[str]) -> None:
    results, *others = (_read_results(folder) for folder in (options.output, *options.join))
    if others:  # pairs need every arm in every draw
        joined = join(results, [result for each in others for result in each])
        arms = {arm for result in joined for arm in result["test"]}
        results = [result for result in joined if arms == set(result["test"])]
    if results:
        text = markdown(results, list(missing), options.trials, options.test_rows)
        (options.table or options.output / "table.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
