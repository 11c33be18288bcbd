"""What the kernel tells of a server's processes."""

from __future__ import annotations

from pathlib import Path


def servers_of(launcher: int) -> list[int]:
    """The pids of the servers that a launcher has started and that live; its other children are jobs.

    What it has forked and not executed yet has its own command line, which names the server's program behind `--`. One
    that is just being executed has none, and is no server before it has its own.
    """
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [pid for pid in map(int, children) if _is_server(command_line(pid))]


def _is_server(line: bytes) -> bool:
    interpreter, program, _ = line.partition(b"\0-m\0jobmaster.server\0")
    return bool(program) and b"--" not in interpreter.split(b"\0")


def command_line(pid: int) -> bytes:
    """The command line of a process, as the kernel has it; empty where it is dead, and for a moment while it is executed."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
