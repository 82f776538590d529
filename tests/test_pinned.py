"""What stays as it is while the code moves: identities, stored formats, the command line, and the numbers of training.

The values lie in pinned.json. `python tests/test_pinned.py --write` writes them again: only for a change that is meant
to change them, and never together with a move or a rename.

Final weights are the same to the last bit only on one kind of machine. On another than the recorded one, norms of the
weights and the last losses are compared instead, to one part in a thousand.
"""

import ast
import contextlib
import hashlib
import io
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import raysearch
from raysearch import Search, load_search
from raysearch.cli import main
from raysearch.modalities.opening import prepare
from raysearch.search.dry_run import first_plans
from raysearch.storage import schemas
from raysearch.training import checkpoint
from raysearch.training.trainer import train

FOLDER = Path(__file__).parent
FILE = FOLDER / "pinned.json"

EVENTS = [  # every event that a run can hold
    "anew", "asked", "closed", "committed", "failed", "finished", "lost", "opened", "opened_test", "resumed", "started",
    "told",
]  # fmt: skip

TEXT = {
    "task": {"name": "tiny", "metric": "accuracy"}
    | {part: f"tiny/{part}.jsonl" for part in ("train", "dev", "test", "domain")},
    "model": {
        "config": {
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "vocab_size": 120,
        }
    },
    "space": "smoke",
    "settings": {"steps": 6, "eval_every": 2, "batch_size": 8, "aux_batch_size": 8, "max_length": 16},
}
IMAGE = {
    "task": "digits",
    "model": {"image": "small_cnn", "widths": [4, 8], "norm": "batch"},
    "space": "image",
    "settings": {"steps": 4, "eval_every": 2, "batch_size": 6, "aux_batch_size": 6},
}
TABLE = {
    "task": {
        "kind": "table",
        "name": "planted",
        "planted": {"rows": 60, "train": 20, "meta_dev": 20, "select_dev": 40, "test": 30},
    },
    "model": {"mlp": [8, 4], "activation": "tanh"},
    "space": "planted",
    "settings": {"steps": 6, "eval_every": 2, "batch_size": 6, "aux_batch_size": 20},
}
DEV_HEAD = {"dev_head_examples": 8, "dev_head_steps": 2, "meta_batch_size": 8}
BASIS = {"m": 4, "k": 2}
OFFICIAL_BEFORE = {  # the profile as it was when the trial's numbers were pinned
    "meta_every": 3,
    "meta_mean": True,
    "lm_head": "tied",
    "head_dropout": -1.0,
    "clip_apart": False,
    "dev_head_rows": "fixed",
    "dev_dropout": False,
}


def trial(base: dict[str, Any], weighting: str, surgery: str = "none", schedule: str = "joint", **more: Any) -> Any:
    """A search of one configuration."""
    method = {"weighting": weighting, "surgery": surgery, "schedule": schedule}
    space = more.pop("space", base["space"])
    return base | {"name": "pinned", "method": method, "space": space, "settings": base["settings"] | more}


TRIALS = {
    "end_task_only": {k: v for k, v in trial(TEXT, "end_task_only").items() if k != "space"}
    | {"settings": {k: v for k, v in TEXT["settings"].items() if k != "aux_batch_size"}},
    "static": trial(TEXT, "static", lambda_e=0.6),
    "attittud_exact": trial(TEXT, "static", "attittud", **BASIS, eta_pos=0.5, eta_neg=-0.5),
    "attittud_refreshed": trial(
        TEXT,
        "static",
        "attittud",
        "pretrain_then_finetune",
        **BASIS,
        basis="randomized_svd",
        basis_every=3,
        pretrain_steps=5,
    ),
    "attittud_per_layer": trial(TEXT, "eta_prim", "attittud", **BASIS, basis="range_finder", scope="per_layer"),
    "aang_products": trial(TEXT, "aang", **DEV_HEAD, engine="products", space="aang_td"),
    "aang_attittud": trial(TEXT, "aang", "attittud", "joint_then_finetune", **DEV_HEAD, **BASIS, finetune_steps=2),
    "aang_difference": trial(TEXT, "aang", **DEV_HEAD, engine="difference", similarity="dot"),
    "aang_jvp": trial(TEXT, "aang", **DEV_HEAD, engine="jvp", similarity="dot", meta_every=2),
    "aang_backward": trial(TEXT, "aang", **DEV_HEAD, engine="backward", lambda_form="scalar", through_softmax=True),
    "aang_official": trial(TEXT, "aang", **DEV_HEAD, **OFFICIAL_BEFORE, space="aang_td_ed") | {"profile": "official"},
    "meta_tartan": trial(TEXT, "meta_tartan", "none", "joint_then_retrain", **DEV_HEAD, lr_tasks=0.5, retrain_steps=4),
    "gradnorm": trial(TEXT, "gradnorm"),
    "famo": trial(TEXT, "famo"),
    "auxinash": trial(TEXT, "auxinash", preference_every=2),
    "gates": trial(TEXT, "gates", meta_batch_size=8),
    "probes": trial(TEXT, "probes", pass_steps=1, steps=12),
    "alphavil": trial(TEXT, "alphavil", pass_steps=1, steps=14),
    "forkmerge": trial(TEXT, "forkmerge", pass_steps=1, steps=14),
    "pcgrad": trial(TEXT, "static", "pcgrad"),
    "gradvac": trial(TEXT, "static", "gradvac", objectives_per_step=0),
    "image": trial(IMAGE, "aang", "attittud", **DEV_HEAD, **BASIS),
    "table": trial(TABLE, "aang", **DEV_HEAD, objectives_per_step=0),
    "table_gcs": trial(TABLE, "static", "gcs"),
}


# ---- what is current ----


def machine() -> dict[str, str]:
    """The kind of machine that the weights were trained on."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(
        line.replace("\t", "").split(": ", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ": " in line
    )
    processor = " / ".join(lines.get(name, "") for name in ("model name", "cpu family", "model", "stepping"))
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "processor": processor,
    }


def first_draw(search: Any, arm: str) -> str:
    """The key of the first plan of an arm that can be drawn: the first choice, or the low end, of every dimension."""
    for nth in range(4):
        params = {}
        for name, declared in search.arms[arm].dimensions.items():
            dimension = declared.to_plain()
            values = dimension["choice"] if "choice" in dimension else dimension.get("float") or dimension["int"]
            params[name] = values[min(nth, len(values) - 1)]
        try:
            return search.resolve(arm, params, number=0, seed=search.seeds[0]).key
        except ValueError:
            continue
    raise AssertionError(f"{search.name}: no draw of arm {arm} is possible")


def search_of(name: str) -> dict[str, Any]:
    """What identifies a search of the catalog and its first trials."""
    search = load_search(name, local=False)
    proposals = [
        {"arm": plan.arm} | {k: float(f"{v:.9g}") if isinstance(v, float) else v for k, v in plan.params.items()}
        for plan in first_plans(search, 3)
    ]
    return {
        "fingerprint": search.fingerprint,
        "first": {arm: first_draw(search, arm) for arm in search.arms},
        "asked": json.loads(json.dumps(proposals)),
    }


def tables_of() -> dict[str, Any]:
    """Names and types of the columns that a run stores."""
    columns = {name: {field.name: str(field.type) for field in schema} for name, schema in schemas.TABLES.items()}
    return {"version": schemas.VERSION, "columns": columns}


def commands() -> dict[str, Any]:
    """Every verb with its options and arguments, as they are typed."""

    def parameter(of: Any, place: int) -> tuple[str, dict[str, Any]]:
        properties = {"required": of.required, "several": of.nargs != 1 or of.multiple, "environment": of.envvar}
        properties["default"] = None if callable(of.default) else of.default
        if of.param_type_name == "argument":
            return of.metavar or of.name.upper(), properties | {"place": place}
        return of.opts[0], properties | {"names": [*of.opts, *of.secondary_opts], "flag": of.is_flag}

    app = typer.main.get_command(main.app)
    current = {}
    for verb, command in {"": app, **app.commands}.items():
        arguments = [of for of in command.params if of.param_type_name == "argument"]
        options = [of for of in command.params if of.param_type_name == "option"]
        current[verb] = dict(parameter(of, place) for place, of in enumerate(arguments + options))
    return json.loads(json.dumps(current))


def listed(kind: str, *columns: str) -> dict[str, Any]:
    """What `raysearch ls KIND` lists, some columns by the first of them."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main.main(["ls", kind, "--json"])
    rows = json.loads(out.getvalue())
    return {row[columns[0]]: [row[column] for column in columns[1:]] for row in rows}


def listings() -> dict[str, Any]:
    """Settings with defaults and ranges, methods with their families, spaces with how many objectives they have."""
    return {
        "settings": listed("settings", "setting", "default", "range", "unit", "used by"),
        "methods": listed("methods", "method", "family"),
        "spaces": listed("spaces", "space", "objectives"),
    }


def trained(name: str, root: Path) -> dict[str, Any]:
    """Hashes and a few numbers of what a tiny trial reported, and of its final weights."""
    search = Search.from_dict(TRIALS[name])
    data = root / f"data-{search.task.modality}"
    plan = search.resolve("search", {}, number=0, seed=0, data=str(data))
    prepare(search.task, plan.model, data, FOLDER / "data")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reports = list(train(plan, folder=root / name))
    finally:
        torch.set_num_threads(threads)
    evaluations = [
        {key: value for key, value in report.evaluation.items() if key != "seconds"}
        | {"weights": report.weights.to_pylist() if report.weights is not None else []}
        for report in reports
    ]
    values = checkpoint.load(root / name / "state.safetensors")["parameters"]
    digest = hashlib.sha256()
    for key in sorted(values):
        digest.update(f"{key} {values[key].dtype} {tuple(values[key].shape)}\n".encode())
        digest.update(values[key].contiguous().numpy().tobytes())
    flat = torch.cat([values[key].reshape(-1).double() for key in sorted(values)])
    norms = [flat.norm(), flat.abs().sum(), *(part.norm() for part in flat.chunk(4))]
    losses = [evaluations[-1][key] or 0.0 for key in ("loss", "train_loss", "aux_loss")]
    return {
        "key": plan.key,
        "weights": digest.hexdigest(),
        "reports": hashlib.sha256(json.dumps(evaluations, sort_keys=True).encode()).hexdigest(),
        "summary": [float(f"{float(number):.9g}") for number in [*norms, *losses]],
    }


def everything() -> dict[str, Any]:
    """All that is pinned, as it is now."""
    with tempfile.TemporaryDirectory() as folder:
        trials = {name: trained(name, Path(folder)) for name in TRIALS}
    return {
        "machine": machine(),
        "optuna": version("optuna"),
        "searches": {name: search_of(name) for name in catalog_names()},
        "tables": tables_of(),
        "checkpoint": checkpoint.FORMAT,
        "commands": commands(),
        "listings": listings(),
        "trials": trials,
    }


def catalog_names() -> list[str]:
    return sorted(file.stem for file in (FOLDER.parent / "trials").glob("*.yaml"))


# ---- what is pinned ----

PINNED: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}


@pytest.mark.parametrize("name", PINNED.get("searches", []))
def test_catalog_search_is_the_same_search(name: str) -> None:
    current, pinned = search_of(name), PINNED["searches"][name]
    assert current["fingerprint"] == pinned["fingerprint"]
    assert current["first"] == pinned["first"]
    if version("optuna") == PINNED["optuna"]:  # another one may draw otherwise
        assert current["asked"] == pinned["asked"]


def test_every_catalog_search_is_pinned() -> None:
    assert catalog_names() == sorted(PINNED["searches"])


def test_tables_keep_their_columns_and_version() -> None:
    assert tables_of() == PINNED["tables"]


def test_checkpoint_format_is_the_same() -> None:
    assert PINNED["checkpoint"] == checkpoint.FORMAT


def test_event_names_stand_in_the_source() -> None:
    sources = Path(raysearch.__file__).parent.rglob("*.py")
    words = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(EVENTS) <= words


def test_commands_keep_their_options_and_arguments() -> None:
    current = commands()
    assert {verb: current.get(verb) for verb in PINNED["commands"]} == PINNED["commands"]


@pytest.mark.parametrize("kind", PINNED.get("listings", []))
def test_listed_things_keep_their_names_and_values(kind: str) -> None:
    current, pinned = listings()[kind], PINNED["listings"][kind]
    assert pinned.keys() <= current.keys()
    if kind == "settings":  # the last column lists who uses a setting, and a new method may use an old setting
        assert [name for name in pinned if not set(pinned[name][-1]) <= set(current[name][-1])] == []
        current, pinned = ({name: row[:-1] for name, row in rows.items()} for rows in (current, pinned))
    assert {name: current[name] for name in pinned} == pinned


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pinned")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIALS)
def test_tiny_trial_ends_with_the_same_weights(root: Path, name: str) -> None:
    current, pinned = trained(name, root), PINNED["trials"][name]
    assert current["key"] == pinned["key"]
    assert current["summary"] == pytest.approx(pinned["summary"], rel=1e-3, abs=1e-4)
    if machine() == PINNED["machine"]:
        assert current == pinned


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    FILE.write_text(json.dumps(everything(), indent=1, sort_keys=True) + "\n")
