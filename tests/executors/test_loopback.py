"""A local cluster is out of reach from other addresses, and asks who comes for a token."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "helpers" / "closed_cluster.py"


def may_make_namespaces() -> bool:
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    try:
        words = ["unshare", "-rn", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"]
        return subprocess.run(words, stderr=subprocess.DEVNULL, timeout=20).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.mark.slow
def test_local_cluster_is_closed_to_other_addresses() -> None:
    if not may_make_namespaces():
        pytest.skip("network namespaces are not permitted here")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = ["unshare", "-rn", sys.executable, str(SCRIPT)]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True, text=True, timeout=180)
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["is_connected"]  # what listens on all addresses would be reached
    assert len(outcome["ports"]) > 5
    assert outcome["reached"] == []
    assert outcome["without_token"] == outcome["wrong_token"] == ""
    assert outcome["notes"] == []
    assert outcome["mode_afterwards"] == os.environ.get("RAY_AUTH_MODE")
