"""Words of other tools are answered with ours; every answer is valid here, and no valid word is refused."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from raysearch.config.json_schema import search_keys
from raysearch.config.loading import load_search, parse_search
from raysearch.config.parameters import SETTINGS
from raysearch.config.search_config import Search
from raysearch.config.sections import DECLARED_SAMPLERS, DECLARED_SCHEDULERS
from raysearch.config.synonyms import DISTRIBUTIONS, KEYS_ELSEWHERE, SETTINGS_ELSEWHERE, WORDS_ELSEWHERE, explain
from raysearch.errors import SpecError

BASE = "task: docstrings\nmodel: tiny\nmethod: {weighting: aang}\nspace: aang_td\n"


def refusal(tmp_path: Path, line: str) -> str:
    file = tmp_path / "mine.yaml"
    file.write_text(BASE + line + "\n")
    with pytest.raises(SpecError) as error:
        load_search(file, local=False)
    text = str(error.value)
    assert "\n" not in text
    assert ":5: " in text
    return text.partition(":5: ")[2]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("settings: {epochs: 3}", "settings.epochs: unknown setting 'epochs'; a trial's length is counted in"),
        ("settings: {learning_rate: 0.1}", "settings.learning_rate: unknown setting 'learning_rate'; it is called lr"),
        ("dimensions: {learning_rate: {float: [0.1, 1]}}", "dimensions.learning_rate: unknown setting"),
        ("learning_rate: 1", "learning_rate: unknown key 'learning_rate'; it is the setting lr here: write it under"),
        ("lr: 1", "lr: lr is a setting: write it under `settings:`, or under `dimensions:` to search it"),
        ("settings: {seeds: [1]}", "settings.seeds: is a key of the search, not a setting: move it out"),
        ("settings: {lr: {float: [1, 2]}}", "settings.lr: is one value of lr, got a mapping; to search it"),
        ("settings: {zzz: 3}", "settings.zzz: unknown setting 'zzz'; `raysearch ls settings` lists them"),
        ("budget: {n_trials: 3}", "budget.n_trials: unknown key 'n_trials'; it is called trials here"),
        ("n_trials: 3", "n_trials: unknown key 'n_trials'; it is called budget.trials here"),
        ("sampler: optuna", "sampler: 'optuna' is called tpe here; write sampler: tpe"),
        ("scheduler: hyperband", "scheduler: 'hyperband' is called asha here; write scheduler: asha"),
        ("scheduler: {asha: {grace_period: 2}}", "scheduler.asha.grace_period: unknown key 'grace_period'; it is"),
        ("baselines: {a: {method: {weighting: static}, settings: {wd: 1}}}", "baselines.a.settings.wd: unknown"),
        ("dimensions: {lr: {loguniform: [1e-4, 1e-3]}}", "dimensions.lr.loguniform: write lr: {float: [0.0001, 0.001]"),
        ("dimensions: {lr: {low: 1e-4, high: 1e-3}}", "dimensions.lr.low: write lr: {float: [0.0001, 0.001]}"),
        ("dimensions: {lr: 'tune.loguniform(1e-4, 1)'}", "dimensions.lr: write lr: {float: [1e-4, 1], log: true}"),
        ("dimensions: {k: {values: [1, 2]}}", "dimensions.k.values: write k: {choice: [1, 2]}"),
        (
            "dimensions: {factored: {choices: [true, false]}}",
            "dimensions.factored.choices: write factored: {choice: [tr",
        ),
        ("dimensions: {lr: [1e-4, 1e-3]}", "dimensions.lr: write lr: {choice: [0.0001, 0.001]}, or {float: [0.0001"),
        ("dimensions: {lr: 1e-3}", "dimensions.lr: is one value, 0.001; write it under `settings:`"),
    ],
)
def test_word_of_another_tool_is_answered_with_ours(tmp_path: Path, line: str, answer: str) -> None:
    assert refusal(tmp_path, line).startswith(answer)


def test_proposed_dimension_is_valid(tmp_path: Path) -> None:
    for line in ("dimensions: {lr: {loguniform: [1e-4, 1e-3]}}", "dimensions: {objectives_per_step: {values: [1, 3]}}"):
        (proposed,) = re.findall(r"write (\w+: \{.*\})", refusal(tmp_path, line))
        (tmp_path / "mine.yaml").write_text(BASE + f"budget: {{trials: 2}}\ndimensions: {{{proposed}}}\n")
        assert load_search(tmp_path / "mine.yaml", local=False).dimensions


def named(remedy: str) -> set[str]:
    """The key that a remedy names, if it is one word."""
    return set() if " " in remedy else {remedy}


def test_answers_name_settings_and_keys_that_exist() -> None:
    keys = search_keys()
    assert {name for remedy in SETTINGS_ELSEWHERE.values() for name in named(remedy)} <= SETTINGS.keys()
    for section, words in KEYS_ELSEWHERE.items():
        prefix = f"{section}." if section else ""
        assert {prefix + name for remedy in words.values() for name in named(remedy)} <= keys.keys(), section
    answers: dict[str, Any] = {"sampler": DECLARED_SAMPLERS, "scheduler": DECLARED_SCHEDULERS}
    for key, words in WORDS_ELSEWHERE.items():
        assert set(words.values()) <= answers[key].keys()


def test_no_word_that_is_valid_here_is_refused() -> None:
    assert SETTINGS_ELSEWHERE.keys() & SETTINGS.keys() == set()
    assert KEYS_ELSEWHERE[""].keys() & {field.name for field in fields(Search)} == set()
    for section, words in KEYS_ELSEWHERE.items():
        assert {f"{section}.{word}" for word in words} & search_keys().keys() == set()
    assert DISTRIBUTIONS.keys() & {"float", "int", "choice", "log", "when"} == set()
    for key, known in (("sampler", DECLARED_SAMPLERS), ("scheduler", DECLARED_SCHEDULERS)):
        assert WORDS_ELSEWHERE[key].keys() & known.keys() == set()


def test_search_declared_in_python_is_answered_too() -> None:
    declared = {"name": "a", "task": "docstrings", "model": "tiny", "method": {}, "learning_rate": 1}
    with pytest.raises(SpecError, match="it is the setting lr here"):
        parse_search(declared)


def test_explain_answers_words_and_nothing_else() -> None:
    assert explain("Learning_Rate") == "it is called lr here"
    assert explain("loguniform").startswith("a dimension is written NAME: {float: [LOW, HIGH], log: true}")
    assert explain("lr") == ""
