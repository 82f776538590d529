"""How much can be learned of the embedded task, and how much of that a plain fine-tune of the quick start's model gets.

    python benchmarks/docstring_room.py                # TF-IDF + logistic regression, a minute
    python benchmarks/docstring_room.py --fine-tune    # and three fine-tunes of the model `tiny`, some minutes

Sizes above train's own borrow rows of the domain text with their labels, which a search never sees: they say what
more labels would bring. C is chosen on dev, test is scored with it; mean +- sd over five draws of train. The last
column has its vocabulary and document frequencies from the domain text too: what unlabelled text brings.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from raysearch.data.row_readers import row_places
from raysearch.modalities.text import docstrings
from raysearch.modalities.text.readers import TextRows

SIZES = (80, 160, 400, 800, 1600)
DRAWS = 5
C = (1.0, 3.0, 10.0, 30.0, 100.0)
FINE_TUNE = {"steps": 400, "lr": 1e-3, "eval_every": 20}
SEEDS = (0, 1, 2)


def labelled_domain(rows: dict[str, TextRows]) -> TextRows:
    """The domain texts with their labels, which `load_rows` leaves out."""
    label_of = {text: label for label, texts in docstrings.texts_by_label().items() for text in texts}
    texts = rows["domain"].texts
    return TextRows("domain", texts, [label_of[text] for text in texts], row_places("domain", len(texts)))


def draw(pool: TextRows, size: int, seed: int) -> TextRows:
    """`size` rows, the same number of each label."""
    chance = np.random.default_rng(seed)
    labels = np.array(pool.labels)
    each = size // len(set(pool.labels))
    return pool.take(
        [i for label in sorted(set(labels)) for i in chance.permutation(np.flatnonzero(labels == label))[:each]]
    )


def score(train: TextRows, rows: dict[str, TextRows], unlabelled: list[str]) -> tuple[float, float]:
    """Macro-F1 on dev and on test, C chosen on dev."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(train.texts + unlabelled)
    best = (-1.0, -1.0)
    for c in C:
        model = LogisticRegression(C=c, max_iter=1000).fit(words.transform(train.texts), train.labels)
        predictions = {part: model.predict(words.transform(rows[part].texts)) for part in ("dev", "test")}
        dev, test = (f1_score(rows[part].labels, predictions[part], average="macro") for part in predictions)
        best = max(best, (dev, test))
    return best


def tf_idf(rows: dict[str, TextRows]) -> None:
    train, more = rows["train"], labelled_domain(rows)
    both = TextRows("both", train.texts + more.texts, train.labels + more.labels, [*train.places, *more.places])
    print("\n| labelled | dev | test | test, domain text too |\n|---|---|---|---|")
    for size in SIZES:
        pool = train if size <= len(train) else both
        draws = [train] if size == len(train) else [draw(pool, size, seed) for seed in range(DRAWS)]
        dev, test = np.array([score(one, rows, []) for one in draws]).T
        _, helped = np.array([score(one, rows, more.texts) for one in draws]).T
        spread = f" +- {test.std(ddof=1):.3f}" if len(draws) > 1 else ""
        print(f"| {size} | {dev.mean():.3f} | {test.mean():.3f}{spread} | {helped.mean():.3f} |", flush=True)


def fine_tune() -> None:
    """The end task alone, from random weights; test is scored here for the documentation, never in a search."""
    from raysearch.config.search_config import Search
    from raysearch.modalities.opening import open_split, prepare
    from raysearch.training import checkpoint
    from raysearch.training.checkpoint import TrialFolder
    from raysearch.training.context import batches_of, build
    from raysearch.training.evaluation import evaluate
    from raysearch.training.parameters import set_parameters
    from raysearch.training.trainer import train

    declared = {"name": "room", "task": "docstrings", "model": "tiny", "method": {"weighting": "end_task_only"}}
    search = Search.from_dict(declared | {"settings": FINE_TUNE})
    print(f"\nfine-tune of the model tiny: {FINE_TUNE}\n")
    print("| seed | select-dev | at step | test | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        prepared = prepare(search.task, search.model.to_plain(), data)
        metadata = json.loads((data / "data.json").read_text(encoding="utf-8"))
        for seed in SEEDS:
            plan = search.resolve("search", {}, number=0, seed=seed, data=str(data), labels=list(prepared.labels))
            folder, begun = TrialFolder(Path(place) / str(seed)), time.perf_counter()
            for _ in train(plan, folder=folder.folder):
                pass
            seconds = time.perf_counter() - begun
            best, network = checkpoint.load(folder.best), build(plan, metadata)
            set_parameters(network, best["parameters"])
            batches = batches_of(plan, metadata, partial(open_split, data))
            test, _ = evaluate(network, open_split(data, "test"), batches, prepared.metric)
            print(f"| {seed} | {best['score']:.3f} | {best['step']} | {test:.3f} | {seconds:.0f} |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fine-tune", action="store_true")
    arguments = options.parse_args()
    begun = time.perf_counter()
    docstrings.collect()
    print(f"collected in {time.perf_counter() - begun:.1f} s without the cache")
    rows = docstrings.load_rows()
    print({part: len(part_rows) for part, part_rows in rows.items()})
    print("versions:", ", ".join(f"{name} {version}" for name, version in docstrings.versions().items()))
    guess = DummyClassifier(strategy="uniform", random_state=0).fit(rows["train"].texts, rows["train"].labels)
    chance = f1_score(rows["test"].labels, guess.predict(rows["test"].texts), average="macro")
    print(f"guessing: macro-F1 {chance:.3f} on test")
    tf_idf(rows)
    if arguments.fine_tune:
        fine_tune()


if __name__ == "__main__":
    main()
