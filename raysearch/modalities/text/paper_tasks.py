"""The papers' tasks by name; the files of each are in a folder of the data root, with a text and a label in each row.

acl_arc    citation intent, Jurgens et al. 2018. As published, 52 of its 139 test texts are also in train. In `_noleak`
           the texts of dev and test are removed from train; 9 test texts are still also in dev, which chooses. Do not
           report scores on the published one alone.
scierc     relations in computer science, Luan et al. 2018; no text is in two splits.
chemprot   relations of chemicals and proteins, Kringelum et al. 2016; 4 texts of train are also in test.
imdb       sentiment, Maas et al. 2011.
"""

from __future__ import annotations

from typing import Any


def _task(name: str, metric: str, *, folder: str, train: str = "train") -> dict[str, Any]:
    files = {"train": train, "dev": "dev", "test": "test"}
    return {"name": name, "metric": metric} | {split: f"{folder}/{file}.jsonl" for split, file in files.items()}


PAPER_TASKS: dict[str, dict[str, Any]] = {
    "acl_arc": _task("acl_arc", "macro_f1", folder="acl_arc"),
    "acl_arc_noleak": _task("acl_arc_noleak", "macro_f1", folder="acl_arc", train="train_noleak"),
    "scierc": _task("scierc", "macro_f1", folder="scierc"),
    "chemprot": _task("chemprot", "accuracy", folder="chemprot"),
    "chemprot_noleak": _task("chemprot_noleak", "accuracy", folder="chemprot", train="train_noleak"),
    "imdb": _task("imdb", "macro_f1", folder="imdb"),
}
