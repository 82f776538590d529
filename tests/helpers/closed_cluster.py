"""Starts a local cluster in a network namespace, and tries to reach it from another address.

Run by `unshare -rn`: this process then has a network of its own, so that every listening port in it is of the cluster.
Prints one JSON object.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

OUR_ADDRESS, ELSEWHERE = "198.51.100.1", "198.51.100.2"
CONNECT = """
import socket, sys
for port in map(int, sys.argv[2:]):
    try:
        socket.create_connection((sys.argv[1], port), timeout=2).close()
        print(port)
    except OSError:
        pass
"""
INTRUDER = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('inside')"


def command(*words: str) -> None:
    subprocess.run(words, check=True)


def other_network() -> subprocess.Popen[bytes]:
    """Makes a second network whose host has the address ELSEWHERE; this one gets OUR_ADDRESS."""
    other = subprocess.Popen(["unshare", "-n", "sleep", "300"])
    pid = str(other.pid)
    while Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        pass
    command("ip", "link", "set", "lo", "up")
    command("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    command("ip", "link", "set", "v1", "netns", pid)
    command("ip", "address", "add", f"{OUR_ADDRESS}/24", "dev", "v0")
    command("ip", "link", "set", "v0", "up")
    command("ip", "route", "add", "default", "dev", "v0")
    for words in (f"address add {ELSEWHERE}/24 dev v1", "link set v1 up"):
        command("nsenter", "-t", pid, "-n", "ip", *words.split())
    return other


def listening_ports() -> list[str]:
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                ports.add(str(int(words[1].rpartition(":")[2], 16)))
    return sorted(ports)


def reach(other: subprocess.Popen[bytes], ports: list[str]) -> list[str]:
    words = ["nsenter", "-t", str(other.pid), "-n", sys.executable, "-c", CONNECT, OUR_ADDRESS, *ports]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


def intrude(address: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | variables
    words = [sys.executable, "-c", INTRUDER, address]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        return process.communicate(timeout=15)[0].strip()
    except subprocess.TimeoutExpired:  # Ray tries again and again
        process.kill()
        return process.communicate()[0].strip()


def main() -> None:
    """Prints which ports listen, which of them the other address reaches, and who gets in without the token."""
    import socket

    from raysearch.config.sections import Resources
    from raysearch.executors.ray_environment import set_ray_environment

    other = other_network()
    with contextlib.ExitStack() as ending:
        ending.callback(other.kill)
        control = ending.enter_context(socket.create_server(("0.0.0.0", 0)))
        is_connected = reach(other, [str(control.getsockname()[1])]) != []
        control.close()
        set_ray_environment()
        import ray

        from raysearch.executors.ray_cluster import open_cluster

        with open_cluster(None, Resources(), dashboard=False) as cluster:
            assert ray.get(ray.remote(lambda: 7).remote()) == 7
            ports, address = listening_ports(), ray.get_runtime_context().gcs_address
            outcome = {
                "is_connected": is_connected,
                "ports": ports,
                "reached": reach(other, ports),
                "without_token": intrude(address, RAY_AUTH_MODE="disabled"),
                "wrong_token": intrude(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64),
                "notes": list(cluster.notes),
            }
        print(json.dumps(outcome | {"mode_afterwards": os.environ.get("RAY_AUTH_MODE")}))


if __name__ == "__main__":
    main()
