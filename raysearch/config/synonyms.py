"""What other tools call a key, and what to write here: the answer to a key that no section of a search has.

    SETTINGS_ELSEWHERE   the setting, by what Hugging Face, Keras, Lightning, PyTorch or a paper call it
    KEYS_ELSEWHERE       the key of a section, by what Optuna, Ray Tune or scikit-learn call it
    DISTRIBUTIONS        Optuna's and Ray Tune's names of how a value is drawn

A key is refused only where its section does not have it, so that no valid file is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from raysearch.config.parameters import INCLUDE_PREFIX, SETTINGS, WEIGHT_PREFIX
from raysearch.methods import FAMILIES
from raysearch.schema.node import Node

_EPOCHS = "a trial's length is counted in optimizer steps: set steps; an epoch is the rows of train / batch_size steps"
_EVALUATION = "set eval_every, in optimizer steps"

SETTINGS_ELSEWHERE: dict[str, str] = {  # word -> a setting, or a sentence with the remedy
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs"), _EPOCHS),
    **dict.fromkeys(("max_steps", "num_steps", "n_steps", "total_steps", "iterations", "max_iter"), "steps"),
    **dict.fromkeys(("learning_rate", "base_lr", "lr_body", "encoder_lr"), "lr"),
    **dict.fromkeys(("classifier_lr", "lr_head", "head_learning_rate"), "head_lr"),
    **dict.fromkeys(("batch", "bs", "train_batch_size", "per_device_train_batch_size", "batchsize"), "batch_size"),
    **dict.fromkeys(("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum"), "micro_batches"),
    **dict.fromkeys(("max_grad_norm", "gradient_clip_val", "clip_norm", "grad_clip", "clip_grad_norm"), "clip"),
    **dict.fromkeys(("warmup_ratio", "warmup_proportion"), "warmup"),
    "warmup_steps": "set warmup, a share of the steps from 0 to 1",
    **dict.fromkeys(("wd", "l2", "decay"), "weight_decay"),
    **dict.fromkeys(("max_len", "max_seq_length", "max_seq_len", "sequence_length"), "max_length"),
    **dict.fromkeys(("eval_steps", "evaluation_steps", "val_check_interval", "eval_interval"), "eval_every"),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy"), _EVALUATION),
    **dict.fromkeys(("early_stopping", "early_stopping_patience"), "patience"),
    **dict.fromkeys(("save_steps", "save_every"), "checkpoint_every"),
    **dict.fromkeys(("fp16", "bf16"), "set precision: bfloat16"),
    **dict.fromkeys(("mixed_precision", "amp", "dtype"), "precision"),
    "gradient_checkpointing": "recompute",
    **dict.fromkeys(("dropout_rate", "hidden_dropout_prob"), "dropout"),
    "lora_r": "lora_rank",
    **dict.fromkeys(("ema", "ema_decay", "swa"), "weight_average"),
    **dict.fromkeys(("beta2", "adam_beta_2"), "adam_beta2"),
    **dict.fromkeys(("llrd", "layerwise_lr_decay"), "layer_decay"),
    **dict.fromkeys(("mlm_probability", "mask_prob", "masking_rate"), "select_probability"),
    **dict.fromkeys(("aux_weight", "loss_weight", "primary_weight", "lambda"), "lambda_e"),
    **dict.fromkeys(("freeze", "freeze_layers", "frozen_layers", "unfrozen_layers"), "trained_layers"),
    "optimizer": "there is one optimizer, AdamW, and no key for it; its settings are lr, weight_decay and adam_beta2",
    "lr_scheduler": "the rate rises over warmup and then falls linearly; set warmup",
}

KEYS_ELSEWHERE: dict[str, dict[str, str]] = {  # section -> word -> a key of the search, or a sentence
    "": {
        **dict.fromkeys(
            ("search_space", "param_space", "params", "hyperparameters", "param_grid", "grid"), "dimensions"
        ),
        **dict.fromkeys(("dataset", "data"), "task"),
        **dict.fromkeys(("encoder", "model_name", "model_name_or_path", "backbone"), "model"),
        **dict.fromkeys(("algorithm", "algo"), "method"),
        **dict.fromkeys(("n_trials", "num_trials", "num_samples", "max_trials"), "budget.trials"),
        **dict.fromkeys(("timeout", "time_budget_s", "max_time"), "budget.seconds"),
        "random_state": "sampler_seed",
        "seed": "write seeds: [0], every configuration's seeds; sampler_seed is that of the draws",
        **dict.fromkeys(("n_seeds", "num_seeds"), "list the seeds: seeds: [0, 1, 2]"),
        "pruner": "scheduler",
        **dict.fromkeys(("n_jobs", "concurrency", "max_concurrent_trials", "num_workers"), "resources.groups"),
        **dict.fromkeys(("output_dir", "storage_path", "log_dir"), "runs"),
        "cv": "write selection: {folds: 5}",
        "metric": "task.metric",
        **{family: f"method.{family}" for family in FAMILIES},
    },
    "budget": {
        **dict.fromkeys(("n_trials", "num_samples", "num_trials", "max_trials", "configurations"), "trials"),
        **dict.fromkeys(("timeout", "time_budget_s", "time", "max_seconds"), "seconds"),
        **dict.fromkeys(("minutes", "hours"), "set seconds"),
    },
    "resources": {
        **dict.fromkeys(("cpu", "num_cpus", "cores"), "cpus"),
        **dict.fromkeys(("gpu", "num_gpus"), "gpus"),
        **dict.fromkeys(("num_workers", "world_size"), "workers"),
        **dict.fromkeys(("n_jobs", "max_concurrent_trials", "concurrency", "parallel"), "groups"),
    },
    "selection": {**dict.fromkeys(("cv", "k", "n_splits", "splits"), "folds"), "n_repeats": "repeats"},
    "confirm": {"n_seeds": "list the seeds: seeds: [101, 102, 103]"},
    "scheduler": {
        **dict.fromkeys(("hyperband", "median", "successive_halving", "bohb"), "write asha: {grace: 20, reduction: 3}"),
    },
    "scheduler.asha": {
        **dict.fromkeys(("grace_period", "min_resource", "min_t"), "grace"),
        **dict.fromkeys(("reduction_factor", "eta"), "reduction"),
        **dict.fromkeys(("max_t", "max_resource"), "a trial's length is the setting steps"),
    },
}

WORDS_ELSEWHERE: dict[str, dict[str, str]] = {  # key -> value -> a value, or a sentence
    "sampler": {
        **dict.fromkeys(("optuna", "bayesian", "bayes", "hyperopt", "bohb"), "tpe"),
        **dict.fromkeys(("grid_search", "gridsearch"), "grid"),
        "random_search": "random",
        **dict.fromkeys(("cma", "cma-es", "cma_es"), "cmaes"),
        **dict.fromkeys(("gaussian_process", "botorch"), "gp"),
    },
    "scheduler": dict.fromkeys(("hyperband", "median", "successive_halving", "bohb", "pruner"), "asha"),
}

_CHOICES = "{choice: [a, b]}"
DISTRIBUTIONS: dict[str, str] = {  # what to write; LOW and HIGH are the user's own bounds
    **dict.fromkeys(("loguniform", "log_uniform", "reciprocal"), "{float: [LOW, HIGH], log: true}"),
    **dict.fromkeys(("uniform", "range", "quniform", "real", "double", "interval"), "{float: [LOW, HIGH]}"),
    **dict.fromkeys(("randint", "integer", "qrandint"), "{int: [LOW, HIGH]}"),
    **dict.fromkeys(("lograndint", "log_int", "qlograndint"), "{int: [LOW, HIGH], log: true}"),
    **dict.fromkeys(("choices", "values", "options", "categorical", "categories", "grid_search", "enum"), _CHOICES),
    **dict.fromkeys(("low", "high", "min", "max", "lower", "upper", "bounds"), "{float: [LOW, HIGH]}"),
    **dict.fromkeys(("type", "distribution", "step", "q"), "{float: [LOW, HIGH]}, {int: [LOW, HIGH]} or " + _CHOICES),
}
_CALL = re.compile(r"(?:tune\.|hp\.)?(?P<name>\w+)\((?P<bounds>.*)\)")
_NUMBER = (int, float)


@dataclass(frozen=True)
class _Section:
    """A mapping of the file, what it holds, and what it may hold."""

    node: Node
    name: str  # dotted; "" of the whole file
    known: frozenset[str]


def refuse_synonyms(node: Node, search: type[Any]) -> None:
    """Raises SpecError for the first key or word of another tool, with what to write here.

    `search` is the dataclass of a search, whose fields are the keys of the file.
    """
    if not isinstance(node.value, dict):
        return
    top = frozenset(each.name for each in fields(search))
    _refuse_keys(_Section(node, "", top))
    for name, words in WORDS_ELSEWHERE.items():
        if name in node and isinstance(word := node[name].value, str) and word.lower() in words:
            raise node[name].error(
                f"{word!r} is called {words[word.lower()]} here; write {name}: {words[word.lower()]}"
            )
    _refuse_in_arm(node, top)
    for name in ("budget", "resources", "selection", "confirm", "scheduler", "method"):
        if name in node and isinstance(node[name].value, dict):
            _refuse_keys(_Section(node[name], name, _keys_of(name)))
    if "scheduler" in node and "asha" in node["scheduler"] and isinstance(node["scheduler"]["asha"].value, dict):
        _refuse_keys(_Section(node["scheduler"]["asha"], "scheduler.asha", frozenset({"grace", "reduction"})))
    if "baselines" in node and isinstance(node["baselines"].value, dict):
        for baseline in node["baselines"]:
            if isinstance(baseline.value, dict):
                _refuse_in_arm(baseline, top)


def _keys_of(section: str) -> frozenset[str]:
    """Returns the keys of a section that no synonym may hide."""
    known = {"budget": ("trials", "seconds", "compute"), "resources": ("workers", "cpus", "gpus", "groups")}
    known |= {"selection": ("folds", "repeats"), "confirm": ("seeds", "keep"), "scheduler": ("asha",)}
    return frozenset(known.get(section, FAMILIES))


def _refuse_keys(section: _Section) -> None:
    """Raises SpecError for a key that the section does not have and that is known elsewhere."""
    elsewhere = KEYS_ELSEWHERE.get(section.name, {})
    for key in section.node.value:
        if key in section.known or not isinstance(key, str):
            continue
        word = key.lower()
        if word in elsewhere:
            raise section.node.error(f"unknown key {key!r}; {_remedy(elsewhere[word])}", key)
        if is_parameter(key):
            raise section.node.error(
                f"{key} is a setting: write it under `settings:`, or under `dimensions:` to search it", key
            )
        if setting := SETTINGS_ELSEWHERE.get(word):
            remedy = setting if " " in setting else f"it is the setting {setting} here: write it under `settings:`"
            raise section.node.error(f"unknown key {key!r}; {remedy}", key)


def _refuse_in_arm(node: Node, top: frozenset[str]) -> None:
    """Raises SpecError for a setting or distribution of another tool, of the search or of a baseline.

    `top` are the keys of the search.
    """
    if "settings" in node and isinstance(node["settings"].value, dict):
        for child in node["settings"]:
            _refuse_setting(child, top)
            if isinstance(child.value, dict):
                name = child.keys[-1]
                raise child.error(f"is one value of {name}, got a mapping; to search it, write it under `dimensions:`")
    if "dimensions" in node and isinstance(node["dimensions"].value, dict):
        for child in node["dimensions"]:
            _refuse_setting(child, top)
            _refuse_distribution(child)


def _refuse_setting(node: Node, top: frozenset[str]) -> None:
    """Raises SpecError for what other tools call a setting, and for a key of the search."""
    name = str(node.keys[-1])
    if is_parameter(name):
        return
    if remedy := SETTINGS_ELSEWHERE.get(name.lower()):
        raise node.error(f"unknown setting {name!r}; {_remedy(remedy)}")
    if name in top:
        raise node.error("is a key of the search, not a setting: move it out of this section, to the top level")
    if (key := KEYS_ELSEWHERE[""].get(name.lower())) and key.partition(".")[0] != "method":
        raise node.error(f"unknown setting {name!r}; {_remedy(key)}, a key of the search")


def is_parameter(name: str) -> bool:
    """Says whether a name is a setting, a primitive or a weight, or may be searched."""
    return name in SETTINGS or name in FAMILIES or name == "space" or name.startswith((INCLUDE_PREFIX, WEIGHT_PREFIX))


def _refuse_distribution(node: Node) -> None:
    """Raises SpecError for a dimension in another tool's syntax, with the same one in ours."""
    name, value = str(node.keys[-1]), node.value
    if isinstance(value, str) and (call := _CALL.fullmatch(value)) and call["name"] in DISTRIBUTIONS:
        bounds = [part.strip() for part in call["bounds"].strip("[]").split(",")]
        raise node.error(f"write {name}: {_in_our_syntax(DISTRIBUTIONS[call['name']], bounds)}")
    if isinstance(value, list):
        numbers = len(value) == 2 and all(isinstance(each, _NUMBER) for each in value)
        span = f", or {{float: [{value[0]}, {value[1]}]}} for all between" if numbers else ""
        raise node.error(f"write {name}: {_in_our_syntax(_CHOICES, value)}{span}")
    if isinstance(value, _NUMBER) or value is True:
        raise node.error(f"is one value, {value}; write it under `settings:`")
    if not isinstance(value, dict) or {"float", "int", "choice"} & value.keys():
        return
    for key, part in value.items():
        if key in DISTRIBUTIONS:
            raise node.error(f"write {name}: {_in_our_syntax(DISTRIBUTIONS[key], _bounds(value, part))}", key)


def _bounds(declared: Mapping[str, Any], part: Any) -> list[Any]:
    """Returns the bounds or choices of a dimension in another tool's syntax."""
    if isinstance(part, list):
        return part
    return [declared[key] for key in ("low", "min", "lower", "high", "max", "upper") if key in declared]


def _in_our_syntax(form: str, values: list[Any]) -> str:
    """Returns the form with the user's own bounds or choices."""
    words = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    if "LOW" in form:
        low, high = words if len(words) == 2 else ("LOW", "HIGH")
        return form.replace("LOW", low).replace("HIGH", high)
    return form.replace("a, b", ", ".join(words)) if words else form


def _remedy(word: str) -> str:
    """Returns what to write: a sentence as it is, a key with `write`."""
    return word if " " in word else f"it is called {word} here"


def explain(word: str) -> str:
    """Returns what a word of another tool is called here, for `show`; empty for any other word."""
    word = word.lower()
    if (name := SETTINGS_ELSEWHERE.get(word)) or (name := KEYS_ELSEWHERE[""].get(word)):
        return _remedy(name)
    if form := DISTRIBUTIONS.get(word):
        return f"a dimension is written NAME: {form}"
    return ""
