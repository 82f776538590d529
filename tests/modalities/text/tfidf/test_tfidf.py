"""A bag of words: it is scikit-learn's pipeline, as a network, as a trial and as an exported folder."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from safetensors.torch import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import raysearch
from raysearch.data.prepared import load_metadata
from raysearch.distributed import ProcessGroup
from raysearch.errors import RunError
from raysearch.modalities.opening import open_split, open_splits_of
from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.tfidf.export import predict_split, save_tfidf
from raysearch.modalities.text.tfidf.features import TextFeatures, features_of
from raysearch.modalities.text.tfidf.network import TfidfBatchBuilder, TfidfNetwork
from raysearch.models.heads import PooledHead
from raysearch.plan import TrialPlan
from raysearch.training.context import TrainingContext
from raysearch.training.evaluation import evaluate
from raysearch.training.head_fitting import fit_head

FEATURES = {"ngrams": 2, "sublinear_tf": True, "min_df": 2, "max_features": 40}


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


@pytest.fixture(scope="module")
def plan(data: Path) -> TrialPlan:
    plan = tiny_plan(data, "end_task_only", "none", "probe", probe_c=3.0, **FEATURES)
    return replace(plan, model={"tfidf": "words"})


@pytest.fixture(scope="module")
def context(plan: TrialPlan) -> TrainingContext:
    context = TrainingContext.from_plan(plan, ProcessGroup())
    fit_head(context)
    return context


@pytest.fixture(scope="module")
def exported(context: TrainingContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    assert isinstance(context.network, TfidfNetwork)
    save_tfidf(context.network, context.plan, context.metadata, folder)
    return folder


def labelled(data: Path, name: str) -> tuple[list[str], np.ndarray]:
    split = open_split(data, name)
    assert isinstance(split, TextSplit)
    return split.texts_of(range(len(split))), np.asarray(split.labels)


def test_fitted_network_equals_a_scikit_learn_pipeline(context: TrainingContext, data: Path) -> None:
    texts, labels = labelled(data, "train")
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=40)
    pipeline = make_pipeline(vectorizer, LogisticRegression(C=3.0, tol=1e-9, max_iter=10_000)).fit(texts, labels)
    dev, _ = labelled(data, "select_dev")
    split = open_split(data, "select_dev")
    batch = context.batches.end_task_batch(split, torch.arange(len(split)))
    with torch.no_grad():
        logits = context.network.end_task(context.network.hidden(*batch.inputs))
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), pipeline.predict_proba(dev), atol=1e-5)
    accuracy, _ = evaluate(context.network, split, context.batches, "accuracy")
    assert accuracy == pytest.approx(pipeline.score(dev, labelled(data, "select_dev")[1]))


def test_head_inputs_are_sparse_and_unit_length(context: TrainingContext) -> None:
    inputs = context.network.head_inputs(context.batches, context.splits("train"))
    assert (inputs.format, inputs.shape) == ("csr", (48, 40))
    np.testing.assert_allclose(np.sqrt(inputs.multiply(inputs).sum(axis=1)), 1)


def test_vocabulary_is_of_the_training_split_alone(plan: TrialPlan, data: Path) -> None:
    everything = replace(plan, settings={**plan.settings, "min_df": 1, "ngrams": 1, "max_features": 50_000})
    words = {word for text in labelled(data, "train")[0] for word in text.split() if len(word) > 1}
    assert set(features_of(everything).vectorizer.vocabulary_) == words


def test_vocabulary_of_a_fold_is_of_its_training_rows(plan: TrialPlan) -> None:
    settings = {**plan.settings, "min_df": 1, "ngrams": 1, "max_features": 50_000}
    vocabularies = {}
    for seed, fold in ((0, 0), (0, 1), (1, 0)):
        folded = replace(plan, settings=settings, seed=seed, folds=40, fold=fold)
        train = open_splits_of(folded)("train")
        assert isinstance(train, TextSplit)
        vectorizer = features_of(folded).vectorizer
        words = TfidfVectorizer().fit(train.texts_of(range(len(train))))
        assert vectorizer.vocabulary_ == words.vocabulary_
        np.testing.assert_array_equal(vectorizer.idf_, words.idf_)
        vocabularies[seed, fold] = vectorizer.idf_.tolist()
    assert len({str(idf) for idf in vocabularies.values()}) == 3


def test_network_without_a_frequent_word_raises(plan: TrialPlan, data: Path) -> None:
    with pytest.raises(ValueError, match=r"(?i)no terms remain|max_df"):
        TfidfNetwork(replace(plan, settings={**plan.settings, "min_df": 1000}), load_metadata(data))


def test_evaluation_of_many_rows_and_features_is_batch_wise() -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(50_000)])
    texts = [" ".join(rng.choice(words, 30)) for _ in range(3_000)]
    vectorizer = TfidfVectorizer(max_features=50_000).fit(texts)
    labels = rng.integers(0, 3, len(texts)).astype(np.int32)
    split = TextSplit(np.arange(len(texts) + 1), np.zeros(len(texts), np.int32), labels, None, pa.array(texts))
    network = TfidfNetwork.__new__(TfidfNetwork)
    torch.nn.Module.__init__(network)
    width = len(vectorizer.vocabulary_)
    network.features, network.end_task = width, PooledHead(torch.nn.Linear(width, 3))
    batches = TfidfBatchBuilder(TextFeatures(vectorizer))
    batches.matrix(split)
    tracemalloc.start()
    evaluate(network, split, batches, "accuracy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert width > 40_000
    assert peak < 100e6, "a dense matrix of all rows would have 600 MB"


def test_load_model_logits_equal_those_of_the_trial(context: TrainingContext, exported: Path, data: Path) -> None:
    split = open_split(data, "test")
    batch = context.batches.end_task_batch(split, torch.arange(len(split)))
    with torch.no_grad():
        expected = context.network.end_task(context.network.hidden(*batch.inputs))
    logits, labels = predict_split(exported, split)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert labels.tolist() == np.asarray(split.labels).tolist()
    loaded = raysearch.load_model(exported)
    texts, _ = labelled(data, "test")
    np.testing.assert_allclose(loaded.predict_proba(texts), expected.double().softmax(dim=1), atol=1e-6)
    assert loaded.predict(texts) == [loaded.labels[i] for i in expected.argmax(dim=1).tolist()]
    assert loaded.predict_proba(["", "unknown words alone"]).shape == (2, 3)


def test_exported_folder_holds_json_and_safetensors_alone(exported: Path) -> None:
    assert sorted(file.name for file in exported.iterdir()) == ["config.json", "model.safetensors", "vocabulary.json"]
    config = json.loads((exported / "config.json").read_text())
    assert config["features"] == FEATURES
    assert config["labels"] == ["fruit", "metal", "river"]


def damaged(exported: Path, folder: Path, file: str, change: object) -> Path:
    """Returns a copy of the exported folder in which one file is changed."""
    for each in exported.iterdir():
        (folder / each.name).write_bytes(each.read_bytes())
    if file.endswith(".json"):
        content = json.loads((folder / file).read_text())
        content = {**content, **change} if file == "config.json" else change
        (folder / file).write_text(json.dumps(content))
    elif isinstance(change, dict):
        save_file({**load_file(folder / file), **change}, folder / file)
    else:
        (folder / file).write_bytes(b"not tensors")
    return folder


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("config.json", {"version": 2}, "version 2 of tfidf"),
        ("config.json", {"features": {"ngrams": 99}}, r"ngrams must be in \[1, 5\]"),
        ("config.json", {"features": {"token_pattern": "(a+)+$"}}, "token_pattern"),
        ("config.json", {"features": [1]}, "features"),
        ("config.json", {"labels": ["fruit", "metal"]}, "weight must have the shape"),
        ("config.json", {"labels": ["fruit", "fruit", "metal"]}, "lists a label twice"),
        ("vocabulary.json", ["a"], "idf must have the shape"),
        ("vocabulary.json", ["a"] * 40, "lists an n-gram twice"),
        ("vocabulary.json", [{}] * 40, "a list of texts"),
        ("vocabulary.json", {"a": 1}, "a list of texts"),
        ("model.safetensors", {"bias": torch.tensor([0.0, float("nan"), 0.0])}, "not finite"),
        ("model.safetensors", {"idf": torch.zeros(3, dtype=torch.complex64)}, "idf must have the shape"),
        ("model.safetensors", "text", "cannot be read"),
    ],
)
def test_load_model_of_a_damaged_bag_of_words_raises_one_line(
    exported: Path, tmp_path: Path, file: str, change: object, problem: str
) -> None:
    with pytest.raises(RunError, match=problem) as raised:
        raysearch.load_model(damaged(exported, tmp_path, file, change))
    assert "\n" not in str(raised.value)
