from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raysearch.errors import RunError
from raysearch.storage import stopping
from raysearch.storage.lock import take_lock, writer_pid

WRITER = """
import signal, sys, time
from pathlib import Path
from raysearch.storage.lock import take_lock
signal.signal(signal.SIGINT, (lambda *_: None) if sys.argv[2] == "stubborn" else (lambda *_: sys.exit(7)))
lock = take_lock(Path(sys.argv[1]))
print("ready", flush=True)
for _ in range(600):
    time.sleep(0.1)
"""


def start_writer(folder: Path, kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_stop_run_interrupts_its_writer_and_waits(tmp_path: Path) -> None:
    with start_writer(tmp_path, "willing") as process:
        assert stopping.stop_run(tmp_path, 20)
        assert process.wait(20) == 7
    assert writer_pid(tmp_path) is None


def test_stop_run_says_when_the_writer_still_works(tmp_path: Path) -> None:
    with start_writer(tmp_path, "stubborn") as process:
        assert not stopping.stop_run(tmp_path, 0.3)
        assert process.poll() is None
        process.kill()


def test_stop_run_without_writer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no process is working on this run"):
        stopping.stop_run(tmp_path, 1)
    take_lock(tmp_path).close()
    with pytest.raises(RunError, match="no process is working on this run"):
        stopping.stop_run(tmp_path, 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("PID elsewhere", "works on this run on elsewhere; stop it there"), ("PID HOST", "does not have this file open")],
)
def test_stop_run_signals_no_process_that_a_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: signals.append(arguments))
    with take_lock(tmp_path), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        named = text.replace("PID", str(bystander.pid)).replace("HOST", stopping.socket.gethostname())
        (tmp_path / "lock").write_text(named)
        with pytest.raises(RunError, match=problem):
            stopping.stop_run(tmp_path, 1)
        assert signals == []
        bystander.communicate(b"\n")
