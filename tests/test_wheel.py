"""The wheel: what is in it, what its metadata say, and that it alone does a search from another folder."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
CATALOGS = {"spaces": "*.yaml", "trials": "*.yaml", "baselines": "*.yaml", "analysis": "*.sql"}


def build(kind: str, source: Path, folder: Path) -> Path:
    """The one wheel or sdist that hatchling makes of a source tree, without a network."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder], cwd=source, check=True)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `pip install` of a release builds it: from the sdist."""
    sdist = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    source = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
        archive.extractall(source)
    (tree,) = source.iterdir()
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel; its dependencies are the ones at hand."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--no-compile", wheel], check=True)
    # Adds a folder at the end of sys.path; the .pth files of that folder, our editable install, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def run_command(*command: object, folder: Path) -> str:
    """What a command prints when run in `folder` with nothing of this process's PYTHONPATH."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_wheel_holds_exactly_the_code_and_catalogs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contents = set(archive.namelist())
    files = {path for path in (ROOT / "raysearch").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    code = {path.relative_to(ROOT).as_posix() for path in files}
    declared = {f"raysearch/catalogs/{f}/{p.name}" for f, kind in CATALOGS.items() for p in (ROOT / f).glob(kind)}
    assert {name for name in contents if not name.startswith("raysearch-")} == code | declared
    assert {name.partition("/")[0].partition("-")[0] for name in contents} == {"raysearch"}


def test_wheel_answers_commands_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = run_command(installed / "python", "-c", "import raysearch; print(raysearch.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    spaces = run_command(installed / "raysearch", "ls", "spaces", folder=tmp_path)
    assert {path.stem for path in (ROOT / "spaces").glob("*.yaml") if path.stem not in spaces} == set()
    for trials in (ROOT / "trials").glob("*.yaml"):
        run_command(installed / "raysearch", "check", trials.stem, folder=tmp_path)


def test_wheel_runs_a_search(installed: Path, tmp_path: Path) -> None:
    run_command(installed / "raysearch", "launch", "smoke", "--name", "tiny", folder=tmp_path)
    run_command(installed / "raysearch", "analyze", "tiny", folder=tmp_path)
    assert (tmp_path / "runs" / "tiny" / "report.html").is_file()


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


def test_wheel_description_has_no_link_that_breaks_elsewhere(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    description = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    targets = re.findall(r"\]\(([^)]+)\)", description)
    assert [target for target in targets if not target.startswith("https://")] == []
    named = set(re.findall(r"\]\((?!https?://|#)([^)#]+\.md)", (ROOT / "README.md").read_text()))
    assert named
    assert {file for file in named if f"`{file}`" not in description} == set()
    assert description.strip().splitlines()[0] == "# raysearch"


def test_wheel_allows_a_range_of_torch_that_has_the_pin(wheel: Path) -> None:
    required = [Requirement(line) for line in metadata_of(wheel).get_all("Requires-Dist", [])]
    runtime = [requirement for requirement in required if requirement.marker is None]
    assert [r.name for r in runtime if any(each.operator in ("==", "===") for each in r.specifier)] == []
    (torch,) = [requirement for requirement in runtime if requirement.name == "torch"]
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pins["torch"] in torch.specifier
    assert version("torch").partition("+")[0] == pins["torch"]
