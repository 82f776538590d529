"""Topics: a bag of words that is reduced by latent semantic analysis of unlabelled text, as scikit-learn has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from safetensors.torch import load_file, save_file
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

import raysearch
from raysearch.distributed import ProcessGroup
from raysearch.errors import RunError
from raysearch.modalities.opening import open_split
from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.tfidf.export import save_tfidf
from raysearch.modalities.text.tfidf.features import features_of
from raysearch.modalities.text.tfidf.network import TfidfNetwork
from raysearch.plan import TrialPlan
from raysearch.training.context import TrainingContext
from raysearch.training.head_fitting import fit_head

SETTINGS = {"ngrams": 1, "sublinear_tf": True, "min_df": 2, "max_features": 40, "topics": 5}


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


@pytest.fixture(scope="module")
def plan(data: Path) -> TrialPlan:
    plan = tiny_plan(data, "end_task_only", "none", "probe", probe_c=3.0, **SETTINGS)
    return replace(plan, model={"topics": "words"})


@pytest.fixture(scope="module")
def context(plan: TrialPlan) -> TrainingContext:
    context = TrainingContext.from_plan(plan, ProcessGroup())
    fit_head(context)
    return context


def texts_of(data: Path, name: str) -> list[str]:
    split = open_split(data, name)
    assert isinstance(split, TextSplit)
    return split.texts_of(range(len(split)))


def test_topics_are_those_of_scikit_learn(plan: TrialPlan, data: Path) -> None:
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=40)
    pipeline = make_pipeline(vectorizer, TruncatedSVD(5, random_state=0), Normalizer()).fit(texts_of(data, "domain"))
    dev = texts_of(data, "select_dev")
    np.testing.assert_allclose(features_of(plan).transform(dev), pipeline.transform(dev), atol=1e-5)


def test_topics_are_the_same_in_every_fold(plan: TrialPlan) -> None:
    whole = features_of(plan)
    folded = features_of(replace(plan, seed=3, folds=4, fold=1))
    assert whole.components is not None
    assert folded.components is not None
    np.testing.assert_array_equal(whole.components, folded.components)


def test_topics_are_no_more_than_the_text_has(plan: TrialPlan) -> None:
    many = features_of(replace(plan, settings={**plan.settings, "topics": 1000}))
    assert many.count < 40


def test_a_task_without_unlabelled_text_is_told(tiny_task: dict[str, str], plan: TrialPlan, tmp_path: Path) -> None:
    task = {key: value for key, value in tiny_task.items() if key != "domain"}
    folder = prepare_tiny_task(task, tmp_path / "data")
    with pytest.raises(Exception, match="domain"):
        features_of(replace(plan, task={**plan.task, "data": str(folder)}))


def test_an_exported_model_of_topics_is_the_trials(context: TrainingContext, data: Path, tmp_path: Path) -> None:
    assert isinstance(context.network, TfidfNetwork)
    save_tfidf(context.network, context.plan, context.metadata, tmp_path)
    split = open_split(data, "test")
    batch = context.batches.end_task_batch(split, torch.arange(len(split)))
    with torch.no_grad():
        expected = context.network.end_task(context.network.hidden(*batch.inputs)).double().softmax(dim=1)
    loaded = raysearch.load_model(tmp_path)
    np.testing.assert_allclose(loaded.predict_proba(texts_of(data, "test")), expected, atol=1e-6)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "components": torch.zeros(5, 3)}, file)
    with pytest.raises(RunError, match="components must have the shape"):
        raysearch.load_model(tmp_path)
