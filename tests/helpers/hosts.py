"""Several hosts on one machine, made of Linux namespaces: each has its own network, processes, mounts and name.

    +-- an outer network and process namespace: when it ends, so does everything in it --+
    |   bridge 198.51.100.0/24                                                            |
    |     |-- host a: 198.51.100.1, its own /tmp/ray, /dev/shm, /etc/hosts, hostname      |
    |     |-- host b: 198.51.100.2, ...                                                   |
    +-------------------------------------------------------------------------------------+

`run_inside` starts a script of the caller in the outer namespaces, where it may make hosts. They have no route to any
other network. All see one shared folder, at SHARED, and the files of this machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SHARED = Path("/mnt")
TEMPORARY = "/tmp/ray/t"  # a host's own folder of temporary files
PREFIX = "198.51.100."  # of documentation (RFC 5737): it leads nowhere
GCS_PORT = 6379
TOOLS = ("unshare", "nsenter", "ip", "mount", "hostname", "bash")
INIT = "while :; do sleep 1000 & wait; done"  # bash as process 1 waits for orphans too
AGENT_PORTS = {  # of Ray's agents on each host, by the option of `ray start` and the file in which Ray looks for it
    "--dashboard-agent-grpc-port": ("metrics_agent_port", 20001),
    "--dashboard-agent-listen-port": ("dashboard_agent_listen_port", 20002),
    "--metrics-export-port": ("metrics_export_port", 20003),
    "--runtime-env-agent-port": ("runtime_env_agent_port", 20004),
}
# Ray's node process ends if its agents, which import a lot, have not written their ports after 15 s. Here the ports are
# known, and written for them as soon as the node has an identifier.
WRITE_PORTS = """
session={folder}/ray/session_latest
until node=$(grep -o "Setting node ID node_id=[0-9a-f]*" $session/logs/raylet.out 2> /dev/null); do sleep 0.2; done
for pair in {ports}; do
    echo -n ${{pair#*:}} > $session/port.tmp
    mv $session/port.tmp $session/${{pair%:*}}_${{node#*node_id=}}
done
"""
TESTS = Path(__file__).resolve().parent.parent
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # nobody else reaches these networks
    "RAY_health_check_period_ms": "1000",  # of a head: how soon it notices that a host is lost
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_raylet_start_wait_time_s": "300",  # these machines may be busy
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
}


def unshare_words() -> list[str]:
    """Returns the command that makes the outer namespaces."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]


def may_make_hosts() -> bool:
    """Says whether this machine lets us make such namespaces, a bridge and a file system in memory."""
    if not all(map(shutil.which, TOOLS)):
        return False
    trial = "ip link add b0 type bridge && ip link add v0 type veth peer name v1 && mount -t tmpfs none /mnt"
    try:
        words = [*unshare_words(), "bash", "-c", trial]
        return subprocess.run(words, stderr=subprocess.DEVNULL, timeout=20).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def run_inside(script: Path, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs a Python script in new outer namespaces; whatever it starts has ended when this returns."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
    words = [*unshare_words(), sys.executable, str(script), *arguments]
    return subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, timeout=timeout)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


class Host:
    """A host of a `Network`."""

    def __init__(self, number: int, shared: Path, *, names_itself_loopback: bool) -> None:
        """Makes host `number`, from 1; as on Debian, its hosts file may give its own name a loopback address."""
        self.name, self.address, self._link = f"host{number}", f"{PREFIX}{number}", f"v{number}"
        words = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        self._outer = subprocess.Popen([*words, "bash", "-c", INIT], stderr=subprocess.DEVNULL)
        self.init = self._child()
        self._network = os.open(f"/proc/{self.init}/ns/net", os.O_RDONLY)
        hosts = shared / f"hosts-{self.name}"
        self_address = "127.0.1.1" if names_itself_loopback else self.address
        hosts.write_text(f"127.0.0.1 localhost\n{self_address} {self.name}\n")
        _run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self.init))
        _run("ip", "link", "set", self._link, "master", "b0", "up")
        steps = (
            f"hostname {self.name}",
            f"mount --bind {hosts} /etc/hosts",
            f"mount --bind {shared} {SHARED}",
            "mkdir -p /tmp/ray",
            "mount -t tmpfs none /tmp/ray",
            f"mkdir {TEMPORARY}",
            "mount -t tmpfs none /dev/shm",
            "ip link set lo up",
            f"ip address add {self.address}/24 dev eth0",
            "ip link set eth0 up",
            f"ip route add default via {PREFIX}254",
        )
        _run(*self._enter(), "bash", "-ec", "\n".join(steps))

    def _child(self) -> int:
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        while not (pids := children.read_text().split()):
            time.sleep(0.01)
        while Path(f"/proc/{pids[0]}/comm").read_text().strip() != "bash":  # then its namespaces are made
            time.sleep(0.01)
        return int(pids[0])

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.init), "--net", "--pid", "--mount", "--uts", "--"]

    def start(self, *words: str, environment: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        """Starts a command on this host."""
        values = {**os.environ, **QUIET, "TMPDIR": TEMPORARY, **(environment or {})}
        return subprocess.Popen([*self._enter(), *words], env=values, text=True, start_new_session=True, **more)

    def call(self, *words: str, environment: dict[str, str] | None = None) -> str:
        """Runs a command on this host and returns what it prints."""
        process = self.start(*words, environment=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        printed, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(words)} ended with {process.returncode}: {printed}")
        return printed

    def start_ray(self, cpus: int, head: Host | None = None, *options: str, **environment: str) -> None:
        """Starts a Ray node, the head or one that joins `head`."""
        ray = str(Path(sys.executable).parent / "ray")
        role = ["--head", f"--port={GCS_PORT}"] if head is None else [f"--address={head.address}:{GCS_PORT}"]
        sizes = [f"--num-cpus={cpus}", "--object-store-memory=80000000", "--disable-usage-stats"]
        more = options or (["--include-dashboard=false"] if head is None else [])
        ports = [f"{option}={port}" for option, (_, port) in AGENT_PORTS.items()]
        pairs = " ".join(f"{file}:{port}" for file, port in AGENT_PORTS.values())
        writing = self.start("bash", "-c", WRITE_PORTS.format(folder=TEMPORARY, ports=pairs))
        try:
            self.call(ray, "start", *role, *sizes, *ports, *more, environment=environment)
        finally:
            writing.kill()
            writing.wait()

    def kill(self, *, silently: bool = False) -> None:
        """Ends all of this host's processes at once.

        Its network answers for a moment that they are gone, unless `silently`, as when the power fails.
        """
        if silently:
            _run("ip", "link", "delete", self._link)
        os.kill(self.init, signal.SIGKILL)
        self._outer.wait()
        os.close(self._network)


class Network:
    """Hosts on one bridge, which end when it is left."""

    def __init__(self, shared: Path) -> None:
        self.shared, self.hosts = shared, list[Host]()

    def __enter__(self) -> Self:
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "b0", "type", "bridge")
        _run("ip", "address", "add", f"{PREFIX}254/24", "dev", "b0")
        _run("ip", "link", "set", "b0", "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for host in self.hosts:
            with contextlib.suppress(ProcessLookupError):
                host.kill()

    def add(self, *, names_itself_loopback: bool = True) -> Host:
        """Returns a new host."""
        host = Host(len(self.hosts) + 1, self.shared, names_itself_loopback=names_itself_loopback)
        self.hosts.append(host)
        return host


class Driver:
    """A command on a host whose lines are kept with the times at which they came."""

    def __init__(self, host: Host, *words: str, environment: dict[str, str] | None = None) -> None:
        self.began = time.monotonic()
        self.process = host.start(*words, environment=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines: list[tuple[float, str]] = []
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._rest = ""

    def read(self) -> None:
        """Takes the lines that have come."""
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.process.stdout.fileno(), 1 << 16):
                *lines, self._rest = (self._rest + data.decode()).split("\n")
                self.lines += [(time.monotonic() - self.began, line) for line in lines]

    def wait_for(self, condition: Callable[[list[str]], bool], seconds: float, what: str = "") -> float:
        """Waits until the lines meet a condition, and returns how long that took; raises TimeoutError."""
        start = time.monotonic()
        while True:
            is_over = self.process.poll() is not None
            self.read()
            if condition([line for _, line in self.lines]):
                return time.monotonic() - start
            if is_over or time.monotonic() - start > seconds:
                state = (
                    f"the command ended with {self.process.returncode}" if is_over else f"no such line in {seconds} s"
                )
                raise TimeoutError(f"{what}: {state}\n{self.transcript()}")
            time.sleep(0.05)

    def wait_for_line(self, part: str, seconds: float) -> float:
        """Waits for a line that contains `part`."""
        return self.wait_for(lambda lines: any(part in line for line in lines), seconds, part)

    def wait(self, seconds: float) -> int:
        """Waits for the end and returns the exit code; raises TimeoutError."""
        until = time.monotonic() + seconds
        while self.process.poll() is None:
            self.read()
            if time.monotonic() > until:
                raise TimeoutError(f"still running after {seconds} s\n{self.transcript()}")
            time.sleep(0.05)
        self.read()
        return int(self.process.returncode)

    def interrupt(self) -> None:
        """Sends Ctrl-C to the command itself, not to nsenter, which waits for it."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGINT)

    def transcript(self) -> str:
        """Returns the lines with their times in seconds."""
        return "\n".join(f"{seconds:6.1f}  {line}" for seconds, line in self.lines)


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Network]:
    """Yields a network whose hosts share a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with Network(folder) as made:
        yield made
