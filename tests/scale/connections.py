"""`python -m tests.scale.connections`: what idle connections cost, and what callers notice of them.

In this order: callers alone; the idle connections are opened (memory, rate); callers beside them; one connection more
than the server takes (it has to be refused); every idle connection is asked whether it lives; the callers leave, and
there has to be room again.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from jobmaster.certs.contexts import client_context
from tests.bench import servers
from tests.bench.stopwatch import Stopwatch
from tests.scale import active, idle
from tests.scale.active import Latencies
from tests.scale.idle import Alive, Opened

REPOSITORY: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = Path("/var/tmp")
ROOM: Final = 64 * 1024 * 1024
"""Bytes of disk and memory wanted beside what the connections need."""
BYTES_A_CONNECTION: Final = 512 * 1024
"""Of memory wanted for each, of server, client and kernel together: ample."""
DESCRIPTORS_BESIDE: Final = 512
OPENING_SECONDS_EACH: Final = 0.05
"""How long the opening may take for each connection, on the slowest of machines."""
SETTLING_SECONDS: Final = 180.0
"""How long all that is not opening or measuring may take."""
STOP_SECONDS: Final = 60.0
PROBE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured: connections, and for how many seconds callers call."""

    idle: int
    active: int
    seconds: float

    def __post_init__(self) -> None:
        if self.idle < 1 or self.active < 2 or self.seconds < 1:
            raise ValueError("there have to be an idle connection, two callers and a second for them")

    @property
    def total(self) -> int:
        """Connections at a time."""
        return self.idle + self.active

    @property
    def lifetime(self) -> float:
        """Seconds after which each process ends by itself."""
        return SETTLING_SECONDS + self.total * OPENING_SECONDS_EACH + 2 * self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured. Memory is the server's resident set, in bytes; kernel buffers are not in it."""

    size: Size
    opened: Opened
    memory_before: int
    memory_after: int
    opening_cpu_seconds: float
    before: Latencies
    beside: Latencies
    idle_cpu_share: float
    surplus: str
    alive: Alive
    has_room_again: bool

    @property
    def bytes_each(self) -> float:
        """Of the server's memory for an idle connection."""
        return (self.memory_after - self.memory_before) / max(self.opened.opened, 1)

    @property
    def failures(self) -> list[str]:
        """What did not go as it has to."""
        opened, alive = self.opened.opened, self.alive.alive
        claims = {
            f"only {opened} connections opened ({self.opened.first_failure})": opened == self.size.idle,
            f"the connection that is too many was {self.surplus}": self.surplus == "refused",
            f"only {alive} idle connections live": alive == self.size.idle,
            "there was no room when callers had left": self.has_room_again,
        }
        return [claim for claim, is_right in claims.items() if not is_right]


def main() -> None:
    """The program. Exits 1 with the reason where it cannot measure, or where a connection was lost or not refused."""
    options = _parser().parse_args()
    size = Size(idle=options.idle, active=options.active, seconds=options.seconds)
    for number in servers.SIGNALS:
        signal.signal(number, _interrupt)
    try:
        result = _measure(size, options.folder)
    except servers.Unable as error:
        sys.exit(f"scale: {error}")
    print(as_text(result))
    if options.json is not None:
        options.json.write_text(json.dumps(as_document(result), indent=2) + "\n")
    if result.failures:
        sys.exit("scale: " + "; ".join(result.failures))


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Ends the measurement once: further signals do not disturb the clearing up."""
    for each in servers.SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _measure(size: Size, folder: Path) -> Result:
    _raise_file_limit(size.total + DESCRIPTORS_BESIDE)
    with (
        servers.place(folder, ROOM + size.total * BYTES_A_CONNECTION) as own,
        _program(_server_command(own, size)) as server,
        ExitStack() as clients,
    ):
        port = _port_when_ready(server)
        calls = active.Plan(
            port=port, certificates=own.certificates, count=size.active, seconds=size.seconds, lifetime=size.lifetime
        )
        with _program(["-m", "tests.scale.active", calls.to_json()]) as callers:
            before = Latencies(**_answer(callers))
        plan = idle.Plan(port=port, certificates=own.certificates, count=size.idle, seconds=size.lifetime)
        memory_before = _resident_bytes(server.pid)
        with Stopwatch(server.pid) as opening:
            holder = clients.enter_context(_program(["-m", "tests.scale.idle", plan.to_json()]))
            opened = Opened(**_answer(holder))
        memory_after = _resident_bytes(server.pid)
        with Stopwatch(server.pid) as calling, _program(["-m", "tests.scale.active", calls.to_json()]) as callers:
            beside = Latencies(**_answer(callers))
            surplus = _probe(port, own.certificates)
            alive = Alive(**_answer(holder, asked=True))
        return Result(
            size=size,
            opened=opened,
            memory_before=memory_before,
            memory_after=memory_after,
            opening_cpu_seconds=opening.server_seconds,
            before=before,
            beside=beside,
            idle_cpu_share=calling.server_seconds / calling.seconds,
            surplus=surplus,
            alive=alive,
            has_room_again=_gets_room(port, own.certificates),
        )


def _server_command(own: servers.Place, size: Size) -> list[str]:
    return [
        *("-m", "tests.scale.server", str(size.total), "--listen", "localhost:0", "--output-dir", str(own.output)),
        *("--certs-dir", str(own.certificates), "--cgroup-root", str(own.cgroup_root)),
    ]


def _raise_file_limit(needed: int) -> None:
    """Lets this process and those it starts have that many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), max(hard, needed)))
    except (ValueError, OSError) as error:
        raise servers.Unable(
            f"{needed} open files are needed and {hard} allowed: raise `ulimit -Hn` or sysctl fs.nr_open"
        ) from error


# --- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def _program(arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A Python program with pipes to it, for the block; told to end after it."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _answer(process: subprocess.Popen[str], *, asked: bool = False) -> dict[str, Any]:
    """The next line of a client program, which ends by itself when its time is over."""
    assert process.stdin is not None  # for the type checker: PIPE was asked for
    assert process.stdout is not None
    if asked:
        process.stdin.write("\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise servers.Unable(f"{process.args!r} ended early; its words are above")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _port_when_ready(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None  # for the type checker: PIPE was asked for
    deadline = threading.Timer(servers.READY_SECONDS, server.kill)
    deadline.start()
    try:
        for line in server.stdout:
            if line.startswith("ready on "):
                return int(line.rpartition(":")[2])
    finally:
        deadline.cancel()
    raise servers.Unable("the server never got ready; its words are above")


def _resident_bytes(pid: int) -> int:
    """VmRSS of proc_pid_status(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise servers.Unable(f"process {pid} has no memory: it has ended")


# --- one connection more ----------------------------------------------------------------------------------------------


def _probe(port: int, certificates: Path) -> str:
    """What becomes of a new connection: `refused` is closed by the server before the handshake."""
    context = client_context(certificates, "superuser")
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PROBE_SECONDS) as tcp,
            context.wrap_socket(tcp, server_hostname="localhost"),
        ):
            return "taken"
    except TimeoutError:
        return "left waiting"
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):  # which one is the version of Python's
        return "refused"


def _gets_room(port: int, certificates: Path) -> bool:
    ends = time.monotonic() + PROBE_SECONDS
    while time.monotonic() < ends:
        if _probe(port, certificates) == "taken":
            return True
        time.sleep(0.1)  # the server learns of the callers' end in its own time
    return False


# --- what comes of it -------------------------------------------------------------------------------------------------


def as_text(result: Result) -> str:
    """A table for people."""
    opened, before, beside = result.opened, result.before, result.beside
    lines = (
        ("idle connections", f"{opened.opened:,} of {result.size.idle:,}"),
        ("opened in", f"{opened.seconds:.1f} s, {opened.opened / opened.seconds:.0f} a second"),
        ("server CPU for each handshake", f"{result.opening_cpu_seconds / max(opened.opened, 1) * 1000:.2f} ms"),
        ("server memory", f"{result.memory_before / 2**20:.0f} -> {result.memory_after / 2**20:.0f} MiB"),
        ("memory for each idle connection", f"{result.bytes_each / 1024:.1f} KiB"),
        (f"Status, {result.size.active} callers alone", _latency(before)),
        (f"Status, {result.size.active} callers beside", _latency(beside)),
        ("server CPU meanwhile", f"{result.idle_cpu_share:.1%} of a core"),
        ("one connection too many is", result.surplus),
        ("idle connections that live", f"{result.alive.alive:,}; {result.alive.pings_answered:,} PINGs answered"),
        ("room when callers have left", "yes" if result.has_room_again else "no"),
    )
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines)


def _latency(latencies: Latencies) -> str:
    return f"p50 {latencies.p50:.2f} ms, p99 {latencies.p99:.2f} ms, worst {latencies.worst:.1f} ms"


def as_document(result: Result) -> dict[str, Any]:
    """All of it, ready for JSON."""
    return {**asdict(result), "bytes_each": result.bytes_each, "failures": result.failures}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.scale.connections",
        description="Measures what idle connections cost a server. Needs root and a cgroup v2 mount.",
    )
    parser.add_argument("--idle", metavar="N", type=int, default=9_900, help="idle connections (default 9900)")
    parser.add_argument("--active", metavar="N", type=int, default=100, help="callers (default 100)")
    parser.add_argument(
        "--seconds", metavar="S", type=float, default=40.0, help="how long callers call, twice (default 40)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the result into FILE as well")
    parser.add_argument(
        "--folder", metavar="DIR", type=Path, default=FOLDER, help=f"for the server's files (default {FOLDER})"
    )
    return parser


if __name__ == "__main__":
    main()
