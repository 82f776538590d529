"""The example files of the documentation are valid and call what exists; completion offers runs and searches."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from raysearch.cli import main

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
VERBS = set(typer.main.get_command(main.app).commands)
CALL = "from raysearch.cli.main import main; main()"


def workflow_steps() -> list[dict[str, str]]:
    workflow = yaml.safe_load((EXAMPLES / "check-searches.yml").read_text())
    return workflow["jobs"]["check"]["steps"]


def test_workflow_checks_with_verbs_that_exist() -> None:
    text = "\n".join(step.get("run", "") for step in workflow_steps())
    assert set(re.findall(r"\braysearch (\w+) ", text.replace("install raysearch", ""))) == {"check"} <= VERBS


def options_of(verb: str) -> set[str]:
    command = typer.main.get_command(main.app).commands[verb]
    return {option for parameter in command.params for option in parameter.opts}


def test_rayjob_launches_with_options_that_exist() -> None:
    job = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["raysearch", "launch"]
    assert (
        {word for word in words if word.startswith("--")} == {"--address", "--runs", "--data"} <= options_of("launch")
    )
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    mounts = [{m["mountPath"] for m in pod["template"]["spec"]["containers"][0]["volumeMounts"]} for pod in pods]
    assert mounts == [{"/shared", "/search"}] * 2, "the folder of runs is the same on all pods"
    assert cluster["authOptions"] == {"mode": "token"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_slurm_script_is_bash_and_its_options_exist() -> None:
    script = EXAMPLES / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    (launch,) = re.findall(r"raysearch launch .*", script.read_text())
    assert set(re.findall(r"--\w+", launch)) == {"--address", "--runs"} <= options_of("launch")


@pytest.mark.slow
@pytest.mark.parametrize("is_valid", [True, False])
def test_workflow_fails_for_a_search_that_cannot_work(tmp_path: Path, is_valid: bool) -> None:
    (tmp_path / "searches").mkdir()
    good = "task: {kind: table, name: planted, planted: {}}\nmodel: {mlp: [4]}\nmethod: {weighting: end_task_only}\n"
    (tmp_path / "searches" / "good.yaml").write_text(good)
    if not is_valid:
        (tmp_path / "searches" / "bad.yaml").write_text(good + "epochs: 3\n")
    command = tmp_path / "raysearch"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{CALL}" "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = workflow_steps()[-1]["run"]
    result = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == int(not is_valid), result.stderr
    assert ("bad.yaml:4: epochs" in result.stderr) != is_valid


def test_dockerfile_has_known_instructions_and_no_root() -> None:
    text = (EXAMPLES / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split()[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "FROM"
    known = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
    assert set(lines) <= known
    assert re.search(r"^USER [1-9]\d*$", text, re.MULTILINE)
    if shutil.which("hadolint"):
        subprocess.run(["hadolint", str(EXAMPLES / "Dockerfile")], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [("raysearch lau", "launch"), ("raysearch check quick", "quickstart"), ("raysearch status fir", "first")],
)
def test_shell_completion_offers_verbs_searches_and_runs(tmp_path: Path, line: str, offered: str) -> None:
    (tmp_path / "runs" / "first" / "tables").mkdir(parents=True)
    (tmp_path / "runs" / "fir$(x)" / "tables").mkdir(parents=True)
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_RAYSEARCH_COMPLETE": "complete_bash"}
    code = f"import sys; sys.argv[0] = 'raysearch'; {CALL}"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == [offered], result.stderr
