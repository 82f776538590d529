"""How much can be learned in the built-in task, and how much plain fine-tuning of the quick start's model learns.

    python benchmarks/docstring_room.py                # TF-IDF + logistic regression, a minute
    python benchmarks/docstring_room.py --fine-tune    # and three fine-tunes of the model `tiny`, some minutes

Sizes above that of train use rows of the domain text with their labels, which a search never reads; they show what
more labels would bring. C is chosen on dev and test is scored with it; mean +- sd over five draws of train. In the last
column the vocabulary and document frequencies also come from the domain text: this is what unlabelled text brings.
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
    """Returns the domain texts with their labels, which `load_rows` leaves out."""
    label_of = {text: label for label, texts in docstrings.texts_by_label().items() for text in texts}
    texts = rows["domain"].texts
    return TextRows("domain", texts, [label_of[text] for text in texts], row_places("domain", len(texts)))


def draw(pool: TextRows, size: int, seed: int) -> TextRows:
    """Returns `size` rows, the same number of each label."""
    generator = np.random.default_rng(seed)
    labels = np.array(pool.labels)
    each = size // len(set(pool.labels))
    rows_of = {label: np.flatnonzero(labels == label) for label in sorted(set(labels))}
    return pool.take([i for rows in rows_of.values() for i in generator.permutation(rows)[:each]])


def score(train: TextRows, rows: dict[str, TextRows], unlabelled: list[str]) -> tuple[float, float]:
    """Returns macro-F1 on dev and on test, with C chosen on dev."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(train.texts + unlabelled)
    best = (-1.0, -1.0)
    for c in C:
        model = LogisticRegression(C=c, max_iter=1000).fit(vectorizer.transform(train.texts), train.labels)
        predictions = {part: model.predict(vectorizer.transform(rows[part].texts)) for part in ("dev", "test")}
        dev, test = (f1_score(rows[part].labels, predictions[part], average="macro") for part in predictions)
        best = max(best, (dev, test))
    return best


def tf_idf(rows: dict[str, TextRows]) -> None:
    """Prints the scores of TF-IDF with logistic regression, by the number of labelled rows."""
    train, domain = rows["train"], labelled_domain(rows)
    places = [*train.places, *domain.places]
    both = TextRows("both", train.texts + domain.texts, train.labels + domain.labels, places)
    print("\n| labelled | dev | test | test, domain text too |\n|---|---|---|---|")
    for size in SIZES:
        pool = train if size <= len(train) else both
        draws = [train] if size == len(train) else [draw(pool, size, seed) for seed in range(DRAWS)]
        dev, test = np.array([score(sample, rows, []) for sample in draws]).T
        _, with_domain = np.array([score(sample, rows, domain.texts) for sample in draws]).T
        spread = f" +- {test.std(ddof=1):.3f}" if len(draws) > 1 else ""
        print(f"| {size} | {dev.mean():.3f} | {test.mean():.3f}{spread} | {with_domain.mean():.3f} |", flush=True)


def fine_tune() -> None:
    """Fine-tunes on the end task alone from random weights, and prints the scores.

    Test is scored here for the documentation only; a search never does.
    """
    from raysearch.config.search_config import Search
    from raysearch.modalities.opening import open_split, prepare
    from raysearch.training import checkpoint
    from raysearch.training.checkpoint import TrialFolder
    from raysearch.training.context import batches_of, build
    from raysearch.training.evaluation import evaluate
    from raysearch.training.parameters import set_parameters
    from raysearch.training.trainer import train

    declaration = {"name": "room", "task": "docstrings", "model": "tiny", "method": {"weighting": "end_task_only"}}
    search = Search.from_dict(declaration | {"settings": FINE_TUNE})
    print(f"\nfine-tune of the model tiny: {FINE_TUNE}\n")
    print("| seed | select-dev | at step | test | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        prepared = prepare(search.task, search.model.to_plain(), data)
        metadata = json.loads((data / "data.json").read_text(encoding="utf-8"))
        for seed in SEEDS:
            plan = search.resolve("search", {}, number=0, seed=seed, data=str(data), labels=list(prepared.labels))
            folder, start = TrialFolder(Path(temporary) / str(seed)), time.perf_counter()
            for _ in train(plan, folder=folder.folder):
                pass
            seconds = time.perf_counter() - start
            best, network = checkpoint.load(folder.best), build(plan, metadata)
            set_parameters(network, best["parameters"])
            batches = batches_of(plan, metadata, partial(open_split, data))
            test, _ = evaluate(network, open_split(data, "test"), batches, prepared.metric)
            print(f"| {seed} | {best['score']:.3f} | {best['step']} | {test:.3f} | {seconds:.0f} |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fine-tune", action="store_true")
    arguments = options.parse_args()
    start = time.perf_counter()
    docstrings.collect()
    print(f"collected in {time.perf_counter() - start:.1f} s without the cache")
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
