"""Why trials wait, as another terminal reads it."""

import json
from pathlib import Path
from typing import Any

import pytest

from raysearch.cli import console
from raysearch.executors.messages import CLUSTER_EVENTS, EventKind, TrialEvent
from raysearch.search.cluster_events import record_cluster_event
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import open_run
from raysearch.storage.states import EventName


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger.open(tmp_path / "mine") as opened:
        yield opened


def ask(ledger: Ledger, trial_id: str) -> None:
    ledger.event(EventName.ASKED, trial_id, detail={"plan": {"arm": "search", "number": 0}}, durable=True)


def waiting(ledger: Ledger) -> dict[str, str]:
    return {row["trial_id"]: row["why"] for row in open_run(ledger.folder).status()["waiting"]}


def test_trial_waits_from_its_asking_to_its_start(ledger: Ledger) -> None:
    ask(ledger, "t")
    assert waiting(ledger) == {"t": "handed out a moment ago"}
    ledger.event(EventName.WAITS, "t", detail={"why": "its worker group starts"}, durable=True)
    assert waiting(ledger) == {"t": "its worker group starts"}
    ledger.event(EventName.STARTED, "t", durable=True)
    assert waiting(ledger) == {}
    ledger.event(EventName.LOST, "t", detail={"why": "Traceback\nOSError: rank 1 was killed\n"}, durable=True)
    assert waiting(ledger) == {"t": "its worker group is lost: OSError: rank 1 was killed"}


def test_trials_that_are_held_back_are_told_until_one_is_asked(ledger: Ledger) -> None:
    ledger.event(EventName.WAITS, "", detail={"why": "the race needs a result"}, durable=True)
    assert waiting(ledger) == {"": "the race needs a result"}
    ask(ledger, "t")
    assert waiting(ledger) == {"t": "handed out a moment ago"}


def test_nothing_waits_in_a_run_that_nobody_works_on(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "mine") as ledger:
        ask(ledger, "t")
    assert open_run(tmp_path / "mine").status()["waiting"] == []
    with Ledger.open(tmp_path / "mine") as ledger:
        assert waiting(ledger) == {}


def test_status_prints_why_each_trial_waits(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ask(ledger, "t")
    ledger.event(EventName.WAITS, "t", detail={"why": "no \x1b[31mfree CPUs"}, durable=True)
    ledger.event(EventName.WAITS, "", detail={"why": "the race needs a result"}, durable=True)
    console.print_status(open_run(ledger.folder).status())
    printed = capsys.readouterr().out
    assert "the next trial waits: the race needs a result\n" in printed
    assert "\nt waits: no " in printed
    assert "\x1b[31m" not in printed


def test_cluster_events_are_recorded_and_told(ledger: Ledger) -> None:
    lines: list[str] = []
    for kind in CLUSTER_EVENTS:
        record_cluster_event(ledger, TrialEvent(kind, "", 0, 0.0, why=f"about {kind}"), lines.append)
    rows = [(row["event"], json.loads(row["detail"])) for row in open_run(ledger.folder).events().to_pylist()]
    assert rows[1:] == [(str(kind), {"why": f"about {kind}"}) for kind in CLUSTER_EVENTS]
    assert lines == [f"about {kind}" for kind in CLUSTER_EVENTS if kind != EventKind.WAITS]
