import dataclasses
import json
import shutil
import stat
from pathlib import Path

import pytest
import torch
from helpers.plans import MODEL, QUICK
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import raysearch
from raysearch.config.loading import load_search
from raysearch.config.search_config import Search
from raysearch.errors import RunError
from raysearch.export.exporter import export
from raysearch.export.final import score_arms_on_test
from raysearch.export.test_split import test_accesses as accesses
from raysearch.modalities.opening import open_split
from raysearch.plan import TrialPlan
from raysearch.reports.page import write_html
from raysearch.reports.recommendation import recommend
from raysearch.storage.run import Run
from raysearch.storage.states import EventName
from raysearch.training import checkpoint
from raysearch.training.trainer import train

pytestmark = pytest.mark.slow  # whole runs, exported or resumed


@pytest.fixture(scope="module")
def run(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    declared = {
        "name": "first",
        "task": tiny_task,
        "model": MODEL,
        "space": "smoke",
        "method": {"weighting": "static", "surgery": "attittud", "schedule": "joint_then_finetune"},
        "settings": {**QUICK, "lr": 3e-3, "m": 4, "finetune_steps": 2, "include.transform.bert": True},
        "dimensions": {"lambda_e": {"float": [0.3, 0.9]}, "k": {"int": [1, 4]}},
        "baselines": {"fine_tune": {"method": {"weighting": "end_task_only"}}},
        "budget": {"trials": 2},
        "confirm": {"seeds": [7]},
        "sampler": "random",
        "scheduler": "fifo",
        "executor": "in_process",
        "runs": str(tmp_path_factory.mktemp("runs")),
        "keep": -1,
    }
    return raysearch.launch(Search.from_dict(declared), progress=False)


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export(run, folder, verify=True)
    return folder


def result(folder: Path) -> dict[str, object]:
    return json.loads((folder / "result.json").read_text())


def openings(run: Run) -> int:
    return run.events()["event"].to_pylist().count(EventName.OPENED_TEST)


def test_transformers_loads_exported_model_with_labels(exported: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(str(exported))
    assert model.config.id2label == {0: "fruit", 1: "metal", 2: "river"}
    classify = pipeline("text-classification", model=str(exported), tokenizer=str(exported))
    assert classify("apple pear plum the a of in was " * 50, truncation=True)[0]["label"] in model.config.label2id
    assert AutoTokenizer.from_pretrained(str(exported)).model_max_length == QUICK["max_length"]


def test_exported_model_logits_equal_trained_network(run: Run, exported: Path) -> None:
    from raysearch.training.context import build

    best = run.best()
    plan = TrialPlan.from_dict(best["plan"])
    data = Path(plan.task["data"])
    network = build(plan, json.loads((data / "data.json").read_text())).eval()
    parameters = checkpoint.load(run.path / "trials" / best["trial_id"] / "best.safetensors")["parameters"]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(parameters[name])
        tokens = torch.from_numpy(open_split(data, "select_dev").row(0).copy()).long()[None]
        everything = torch.ones(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool)
        ours = network.end_task(network.hidden(tokens, everything))
        theirs = AutoModelForSequenceClassification.from_pretrained(str(exported))(input_ids=tokens).logits
    torch.testing.assert_close(ours, theirs)


def test_exported_search_resolves_to_exported_plan(run: Run, exported: Path) -> None:
    search = load_search(exported / "search.yaml")
    assert not search.dimensions
    assert search.budget.trials == 1
    plan = TrialPlan.from_json((exported / "plan.json").read_text())
    assert search.resolve("search", {}, number=0, seed=search.seeds[0], labels=plan.task["labels"]).key == plan.key
    assert plan.key == TrialPlan.from_dict(run.best()["plan"]).key
    assert str(run.path) not in (exported / "plan.json").read_text()


def test_export_says_which_arm_it_exports_and_why(run: Run, exported: Path, tmp_path: Path) -> None:
    choice = run.best_arm()
    assert choice is not None
    recommendation, card = recommend(run), (exported / "README.md").read_text()
    assert result(exported)["arm"] == recommendation.arm
    assert result(exported)["recommendation"] == recommendation.verdict
    why = "it is the simplest arm than which no other is better"
    assert result(exported)["reason"] == choice.reason("accuracy", recommendation.arm, why)
    assert result(exported)["reason"] in card
    assert f"## Recommendation\n\n{recommendation.verdict}\n" in card
    assert all(f"- {step.purpose}: `{step.command}`\n" in card for step in recommendation.open_steps)
    other = next(each for each in choice.ranked if each.arm != recommendation.arm)
    chosen = export(run, tmp_path / "other", arm=other.arm, test=False)
    assert (chosen.arm, "because it was asked for" in chosen.reason) == (other.arm, True)
    assert f"{other.score:.4f}" in chosen.reason
    with pytest.raises(RunError, match=r"no arm 'fine_tun'; did you mean 'fine_tune'\?"):
        export(run, tmp_path / "model", arm="fine_tun")
    with pytest.raises(RunError, match="leave one out"):
        export(run, tmp_path / "model", arm="fine_tune", trial="search")


def test_launching_exported_search_reproduces_the_score(run: Run, exported: Path, tmp_path: Path) -> None:
    search = dataclasses.replace(load_search(exported / "search.yaml"), runs=str(tmp_path))
    again = raysearch.launch(search, progress=False).best()
    assert (again["score"], again["best_step"]) == (run.best()["score"], run.best()["best_step"])


def test_export_verify_retrains_to_identical_weights(exported: Path) -> None:
    verified = result(exported)["verified"]
    assert isinstance(verified, dict)
    assert verified["same_score"]
    assert verified["same_weights"]
    assert verified["largest_difference"] == 0.0


def test_export_result_records_how_the_score_was_selected(run: Run, exported: Path) -> None:
    outcome = result(exported)
    assert outcome["select_dev"] == pytest.approx(run.best()["score"])
    assert outcome["configurations"] == 2
    assert len(outcome["confirmed"]) == 1
    assert outcome["trial_id"] == run.best()["trial_id"]


def test_exported_files_have_the_rights_of_new_files(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    rights = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    for path in exported.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == rights[path.is_dir()], path


def test_model_card_lists_scores_settings_and_objectives(run: Run, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    phrases = ["chosen by this score from 2 configurations", "read the test split 1 time so far", "to the last bit"]
    for phrase in [*phrases, "| `lambda_e` |"]:
        assert phrase in card
    for objective in run.best()["plan"]["objectives"]:
        assert "/".join(objective[stage] for stage in ("data", "transform", "representation", "output")) in card
    assert "None" not in card


def test_test_split_is_scored_once_per_trial_and_logged(run: Run, exported: Path, tmp_path: Path) -> None:
    before = openings(run)
    first = result(exported)
    assert before >= 1
    assert export(run, tmp_path / "again").test == first["test"]
    assert openings(run) == before
    scores = [row for row in run.evaluations().to_pylist() if row["split"] == "test"]
    assert [row["score"] for row in scores if row["trial_id"] == first["trial_id"]] == [first["test"]]


@pytest.mark.usefixtures("exported")
def test_second_test_split_access_adds_a_warning(run: Run, tmp_path: Path) -> None:
    before = openings(run)
    other = export(run, tmp_path / "baseline", trial="fine_tune")
    assert other.trial_id.startswith("fine_tune")
    assert other.openings == before + 1 == openings(run)
    assert any(
        "The test split was read 1 time before" in note and run.best()["trial_id"] in note for note in other.notes
    )
    assert run.status()["state"] == "finished"


def test_export_without_test_does_not_read_the_test_split(run: Run, tmp_path: Path) -> None:
    before = openings(run)
    trial = run.trials()["trial_id"].to_pylist()[0]
    outcome = export(run, tmp_path / "model", trial=trial, test=False)
    assert (outcome.trial_id, outcome.test) == (trial, None)
    assert openings(run) == before
    assert "| test | - | not scored |" in (tmp_path / "model" / "README.md").read_text()


def test_export_without_weights_retrains_to_the_same_weights(run: Run, exported: Path, tmp_path: Path) -> None:
    checkpoint_path = run.path / "trials" / run.best()["trial_id"] / "best.safetensors"
    aside = checkpoint_path.rename(tmp_path / "aside")
    try:
        outcome = export(run, tmp_path / "model")
    finally:
        aside.rename(checkpoint_path)
    assert outcome.trained_again
    assert outcome.weights_sha256 == result(exported)["weights_sha256"]
    assert outcome.test == result(exported)["test"]


def test_export_of_changed_weights_fails_before_reading_test(run: Run, tmp_path: Path) -> None:
    best = run.best()
    checkpoint_path = run.path / "trials" / best["trial_id"] / "best.safetensors"
    right = checkpoint.load(checkpoint_path)
    torch.manual_seed(0)
    wrong = {name: torch.randn(value.shape) for name, value in right["parameters"].items()}
    before = openings(run)
    checkpoint.save(checkpoint_path, right | {"parameters": wrong})
    try:
        with pytest.raises(RunError, match="its weights or the data have changed"):
            export(run, tmp_path / "model")
    finally:
        checkpoint.save(checkpoint_path, right)
    assert openings(run) == before
    assert list(tmp_path.iterdir()) == []


def test_export_to_nonempty_folder_or_unknown_trial_raises(run: Run, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists and is not empty; export to another folder"):
        export(run, exported)
    with pytest.raises(RunError, match=r"no trial 'fine_tun' has ended; did you mean 'fine_tune'\?"):
        export(run, tmp_path / "model", trial="fine_tun")


def test_export_retrains_with_the_workers_train_function() -> None:
    from raysearch.export import retrain

    assert retrain.train is train


def test_final_scores_every_arm_on_test_once(run: Run) -> None:
    before = openings(run)
    scored = list(score_arms_on_test(run))
    assert [trial_id.split("-")[0] for trial_id, _, _ in scored] == ["search", "fine_tune"]
    assert all(retrained for _, _, retrained in scored)  # the run has no weights of confirmation trials
    assert openings(run) == before + 2
    assert [score for _, score, _ in score_arms_on_test(run)] == [score for _, score, _ in scored]
    assert openings(run) == before + 2
    on_test = [row for row in run.evaluations().to_pylist() if row["split"] == "test"]
    assert {trial_id for trial_id, _, _ in scored} <= {row["trial_id"] for row in on_test}


def test_export_updates_what_the_page_says_of_test(run: Run, tmp_path: Path) -> None:
    copied = Run(Path(shutil.copytree(run.path, tmp_path / "first")))
    page = write_html(copied)
    before = openings(copied)
    opened = {access["trial_id"] for access in accesses(copied)}
    unopened = [trial for trial in copied.trials()["trial_id"].to_pylist() if trial not in opened]
    export(copied, tmp_path / "model", trial=unopened[-1])
    assert openings(copied) == before + 1
    assert f"read {before + 1} time" in page.read_text()
    question = tmp_path / "seeds.sql"
    question.write_text("-- Seeds: how many seeds?\nSELECT count(DISTINCT seed) AS seeds FROM trials")
    content = write_html(copied, [question]).read_text()
    export(copied, tmp_path / "again", trial=copied.trials()["trial_id"].to_pylist()[0])
    assert page.read_text() == content
    page.unlink()
    export(copied, tmp_path / "third", test=False)
    assert not page.exists()
