"""Tasks of the papers by their names; each has its files in a folder of the data root, rows of text and label.

acl_arc    citation intent, Jurgens et al. 2018. As published 52 of its 139 test texts stand in train; `_noleak` is
           train without the texts of dev and test, and the published one is not to be quoted alone.
scierc     relations in computer science, Luan et al. 2018; no text is in two splits.
chemprot   relations of chemicals and proteins, Kringelum et al. 2016; 4 rows of train stand in test.
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
