"""A run whose best arm counts words: exported, verified, scored on test, and used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plans import MODEL, QUICK, prepare_tiny_task
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import AutoTokenizer, BertConfig, BertModel

import raysearch
from raysearch.config.incumbents import incumbents
from raysearch.config.search_config import Search
from raysearch.export.exporter import export
from raysearch.export.final import score_arms_on_test
from raysearch.export.prediction import predict_file
from raysearch.modalities.opening import open_split
from raysearch.storage.run import Run

pytestmark = pytest.mark.slow  # whole runs, exported


def launched(task: dict[str, str], runs: Path, **declared: Any) -> Run:
    search = {
        "name": "words",
        "task": task,
        "model": MODEL,
        "method": {"weighting": "end_task_only"},
        "settings": {**{k: v for k, v in QUICK.items() if not k.startswith("aux")}, "steps": 2, "lr": 1e-5},
        "dimensions": {"head_lr": {"choice": [1e-5, 2e-5]}},
        "baselines": {"tfidf_lr": {"trials": 2}},
        "budget": {"trials": 1},
        "executor": "in_process",
        "runs": str(runs),
        "keep": -1,
    }
    return raysearch.launch(Search.from_dict({**search, **declared}), progress=False)


@pytest.fixture(scope="module")
def run(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return launched(tiny_task, tmp_path_factory.mktemp("runs"), confirm={"seeds": [7, 8]})


def texts_of(run: Run, name: str) -> tuple[list[str], Any]:
    split: Any = open_split(run.path / "data", name)
    return split.texts_of(range(len(split))), split.labels


def test_exported_bag_of_words_is_a_scikit_learn_pipeline(run: Run, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "model", verify=True)
    assert exported.arm == "tfidf_lr"
    assert exported.verified is not None
    assert exported.verified.same_weights
    drawn = run.best("tfidf_lr")["params"]
    vectorizer = TfidfVectorizer(
        ngram_range=(1, drawn["ngrams"]), sublinear_tf=drawn["sublinear_tf"], min_df=drawn["min_df"]
    )
    regression = LogisticRegression(C=drawn["probe_c"], tol=1e-9, max_iter=10_000)
    pipeline = make_pipeline(vectorizer, regression).fit(*texts_of(run, "train"))
    texts, labels = texts_of(run, "test")
    loaded = raysearch.load_model(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict_proba(texts), pipeline.predict_proba(texts), atol=1e-5)
    assert exported.test == pytest.approx(pipeline.score(texts, labels))
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    np.testing.assert_array_equal(
        predict_file(tmp_path / "model", tmp_path / "texts.txt")["label"], loaded.predict(texts)
    )
    card = (tmp_path / "model" / "README.md").read_text()
    assert "TF-IDF features" in card
    assert "load_model" in card
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o044, "others may read it"


def test_encoder_of_the_same_run_is_loaded_the_same_way(run: Run, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "model", arm="search", test=False)
    assert exported.arm == "search"
    loaded = raysearch.load_model(tmp_path / "model")
    texts, labels = texts_of(run, "select_dev")
    predicted = loaded.predict_proba(texts).argmax(axis=1)
    assert float((predicted == labels).mean()) == pytest.approx(exported.select_dev)


def test_final_scores_the_bag_of_words_too(run: Run) -> None:
    scored = {trial_id.split("-")[0]: score for trial_id, score, _ in score_arms_on_test(run)}
    assert scored.keys() == {"search", "tfidf_lr"}
    assert scored["tfidf_lr"] > scored["search"]


def test_bag_of_words_is_selected_on_folds_and_refitted(tiny_task: dict[str, str], tmp_path: Path) -> None:
    run = launched(tiny_task, tmp_path, selection={"folds": 3, "repeats": 1})
    exported = export(run, tmp_path / "model", arm="tfidf_lr")
    assert exported.folds == 3
    everything = [texts_of(run, name) for name in ("train", "meta_dev", "select_dev")]
    vocabulary = {word for texts, _ in everything for text in texts for word in text.split() if len(word) > 1}
    loaded: Any = raysearch.load_model(tmp_path / "model")
    known = set(loaded.features.vectorizer.vocabulary_)
    assert {term for term in known if " " not in term} <= vocabulary
    assert len({term for term in known if " " not in term}) > 20
    assert exported.test is not None
    assert exported.test > 0.9, "three classes that their words separate"


def test_search_of_a_bag_of_words_alone_is_exported(tiny_task: dict[str, str], tmp_path: Path) -> None:
    main = {
        "model": "tfidf",
        "method": {"weighting": "end_task_only", "schedule": "probe"},
        "settings": {},
        "dimensions": {"probe_c": {"choice": [1, 10]}},
        "baselines": {},
    }
    run = launched(tiny_task, tmp_path, **main)
    exported = export(run, tmp_path / "model", verify=True)
    assert exported.arm == "search"
    assert raysearch.load_model(tmp_path / "model").labels == ["fruit", "metal", "river"]


def test_every_shipped_baseline_is_trained_exported_and_loaded(tiny_task: dict[str, str], tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    data = prepare_tiny_task(tiny_task, tmp_path / "data")
    torch.manual_seed(0)
    BertModel(BertConfig(**MODEL["config"])).save_pretrained(encoder)
    AutoTokenizer.from_pretrained(str(data / "tokenizer")).save_pretrained(str(encoder))
    short = {"steps": 3, "pretrain_steps": 2, "contrast_steps": 2, "contrast_pairs": 4}
    arms: dict[str, Any] = {}
    for name, incumbent in incumbents().items():
        arm = Search.from_dict(
            {
                "name": "x",
                "task": tiny_task,
                "model": {"path": str(encoder)},
                "baselines": [name],
                "budget": {"trials": 1},
            }
        ).arms[name]
        methods = arm.method_combinations()
        used = {key: short[key] for key in short if any(arm.uses(each, key) for each in methods)}
        arms[name] = {"trials": 1, "settings": used}
        assert incumbent.meaning
    settings = {"steps": 3, "eval_every": 2, "max_length": 16, "lr": 1e-5, "cache_states": "off"}
    run = launched(tiny_task, tmp_path / "runs", model={"path": str(encoder)}, baselines=arms, settings=settings)
    states = {row["arm"]: row["state"] for row in run.trials().to_pylist()}
    assert states == dict.fromkeys(["search", *incumbents()], "complete")
    for name in incumbents():
        exported = export(run, tmp_path / name, arm=name, test=False)
        loaded = raysearch.load_model(tmp_path / name)
        texts, labels = texts_of(run, "select_dev")
        accuracy = float((loaded.predict_proba(texts).argmax(axis=1) == labels).mean())
        assert accuracy == pytest.approx(exported.select_dev), name
