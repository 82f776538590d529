"""What all tests share: one quiet, reproducible surrounding, and a text task that fits in a test."""

import json
import os
import random
from pathlib import Path

import hypothesis
import pytest

# Before anything is imported: libraries read these at import, worker processes inherit them.
os.environ |= {
    "RAY_AUTH_MODE": "disabled",  # local clusters of one machine; the default, a token, has to be set on both sides
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",  # small models are slower on more, and sums depend on how many
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "agg",
    # not the user's, but kept between runs: the embedded task's text takes a while to collect
    "XDG_CACHE_HOME": str(Path(__file__).parent.parent / ".pytest_cache" / "xdg"),
    "COLUMNS": "100",  # messages wrap alike on every terminal
}

for name in ("RAY_ADDRESS", "RAYSEARCH_RUNS"):  # the user's cluster and runs are none of ours
    os.environ.pop(name, None)

# The same examples every time, however busy the machine.
hypothesis.settings.register_profile("raysearch", derandomize=True, deadline=None)
hypothesis.settings.load_profile("raysearch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run: `gpu` without an accelerator, `data` without RAYSEARCH_DATA."""
    skip_reasons = {}
    if "RAYSEARCH_DATA" not in os.environ:
        skip_reasons["data"] = "RAYSEARCH_DATA names no folder of data sets"
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            skip_reasons["gpu"] = "no accelerator"
    for item in items:
        for mark, reason in skip_reasons.items():
            if item.get_closest_marker(mark):  # not `item.keywords`, which holds the names of folders too
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A task as a search declares it: three classes that their words separate, with domain text; 120 labelled rows."""
    folder = tmp_path_factory.mktemp("tiny_task")
    chance = random.Random(0)
    words = {
        "fruit": ["apple", "pear", "plum", "grape", "melon", "cherry"],
        "metal": ["iron", "copper", "zinc", "silver", "lead", "nickel"],
        "river": ["bank", "flood", "ford", "current", "delta", "spring"],
    }
    shared = ["the", "a", "of", "in", "was", "seen", "near", "many", "old", "small", "and", "with"]

    def text(label: str) -> str:
        return " ".join(chance.sample(words[label], 3) + chance.sample(shared, 5))

    labels = list(words)
    for split, rows in {"train": 48, "dev": 36, "test": 36}.items():
        lines = [json.dumps({"text": text(labels[i % 3]), "label": labels[i % 3]}) for i in range(rows)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"text": text(chance.choice(labels))}) for _ in range(60)]
    (folder / "domain.jsonl").write_text("\n".join(lines) + "\n")
    return {"name": "tiny", "metric": "accuracy"} | {
        split: str(folder / f"{split}.jsonl") for split in ("train", "dev", "test", "domain")
    }
