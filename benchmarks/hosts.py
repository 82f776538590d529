"""Searches on several hosts: killed, joining, lost and full ones, each host made of Linux namespaces of this machine.

    python benchmarks/hosts.py [SCENARIO ...]       all of them without arguments; needs the right to make namespaces

    replaced_host     the only group is on both hosts; one is killed, the search waits, a third host joins
    full_cluster      two groups of two ranks fill two hosts, launched from the second one; Ctrl-C: seconds to the
                      answer and to the end
    third_host        a host joins, is used, and is killed; a second search on the same cluster waits, and says why
    lost_head         the head is killed; the search goes on in a new cluster from its folder alone
    unusable_network  a host whose network cannot be used: the search ends with the reason
    job_from_outside  ray job submit from a host outside, and a file of primitives that one host alone has

A search trains nothing, but for the last one: a stub sums over two ranks by gloo, keeps checkpoints, and sleeps
(`tests/helpers/stub_training.py`). Printed are the lines of each driver with their times, then what the tables hold.
"""

import argparse
import json
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from helpers.host_searches import SCENARIOS  # noqa: E402 - found after the path is set
from helpers.hosts import may_make_hosts, run_inside  # noqa: E402

SECONDS = 3000  # for a scenario


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", choices=[[], *SCENARIOS])
    names = parser.parse_args().scenarios or list(SCENARIOS)
    if not may_make_hosts():
        print("this machine does not permit the namespaces of which the hosts are made", file=sys.stderr)
        return 1
    failed = 0
    for name in names:
        start = time.monotonic()
        done = run_inside(TESTS / "helpers" / "host_searches.py", name, timeout=SECONDS)
        failed += done.returncode != 0
        outcome = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
        print(f"{name}, {time.monotonic() - start:.0f} s: {json.dumps(outcome, indent=2)}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
