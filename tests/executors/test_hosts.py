"""A search on two hosts of their own: groups over both, one host killed, another one joining."""

import json
from pathlib import Path

import pytest
from helpers.hosts import may_make_hosts, run_inside

SCRIPT = Path(__file__).parent.parent / "helpers" / "host_searches.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it takes a minute or two, unless the machine is busy
def test_search_survives_a_lost_host_and_uses_a_new_one() -> None:
    if not may_make_hosts():
        pytest.skip("namespaces are not permitted here")
    done = run_inside(SCRIPT, "replaced_host", timeout=1700)
    assert done.returncode == 0
    outcome = json.loads(done.stdout)
    assert set(outcome["nodes"]) == {"host1", "host2"}  # ranks on both, though their names are of loopback addresses
    assert (outcome["exit"], outcome["state"], outcome["trials"], outcome["complete"]) == (0, "finished", 3, 3)
    assert outcome["each_once"]
    assert outcome["attempts"] >= 2  # of the trial that was interrupted
    assert outcome["restarted_from_zero"] == 0
    assert len(outcome["waiting"]) == 1
    assert any("no worker group fits since host2 (198.51.100.2) is lost" in why for why in outcome["why_waited"])
