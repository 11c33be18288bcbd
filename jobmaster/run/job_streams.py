"""A job's standard streams: what its child gets of them, what the launcher keeps, and what this server does with its own.

A job has the pipe of its output, and beside it a pipe for stderr, and one for stdin with its queue; or a terminal, whose
output goes through the pipe, and the queue.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from jobmaster.output.index import Stream
from jobmaster.output.pump import Pump
from jobmaster.output.source import Source
from jobmaster.output.terminal import TerminalEnds
from jobmaster.run.stdin import Stdin
from jobmaster.run.terminal import TerminalInput

if TYPE_CHECKING:
    from jobmaster.run.inherited import InheritedChild
    from jobmaster.run.job_files import AdoptedFiles, JobFiles

DESCRIPTORS: Final = 6
"""Of a job, at most: both ends of its output's pipe, its terminal twice and what tells of its being opened again, and the
queue; without a terminal it has fewer."""
STDIN: Final = "stdin"
QUEUE: Final = "stdin_queue"
STDERR: Final = "stderr"
TERMINAL: Final = "terminal"
_TERMINAL_PIPE: Final = "terminal_pipe"
"""Names of what the launcher keeps: the stdin's pipe and the queue before it, the pipe of stderr; of a terminal its master,
and the write end of the output's pipe."""


class JobStreams(NamedTuple):
    """A job's input, where it has one, and the pump of its output."""

    stdin: Stdin | None
    pump: Pump


def given_and_kept(files: JobFiles) -> tuple[dict[str, int], dict[str, int]]:
    """What a child gets of its own streams, and what the launcher keeps of them."""
    streams: dict[str, int] = {}
    keeps: dict[str, int] = {}
    if files.stdin is not None:
        streams[STDIN] = files.stdin.read_end
        keeps |= {QUEUE: files.stdin.queue, STDIN: files.stdin.write_end}
    if files.stderr is not None:
        keeps[STDERR], streams[STDERR] = files.stderr
    if files.terminal is not None:
        streams[TERMINAL] = files.terminal.slave
        keeps |= {QUEUE: files.terminal.queue, TERMINAL: files.terminal.master, _TERMINAL_PIPE: files.write_end}
    return streams, keeps


def streams_of(files: JobFiles, close_kept: Callable[[], Awaitable[None]]) -> JobStreams:
    """This server's ends, once the child has its own, which are closed here.

    Args:
        files: of the job.
        close_kept: has the launcher close what it keeps of the stdin.
    """
    if files.terminal is not None:
        os.close(files.terminal.slave)
        ends = TerminalEnds(master=files.terminal.master, pipe=files.write_end)
        return JobStreams(
            TerminalInput(files.terminal.queue, files.terminal.typed), Pump(files.read_end, files.log, terminal=ends)
        )
    os.close(files.write_end)
    stderr = stdin = None
    if files.stderr is not None:
        stderr, write_end = files.stderr
        os.close(write_end)
    if files.stdin is not None:
        os.close(files.stdin.read_end)
        stdin = Stdin(files.stdin.queue, files.stdin.write_end, close_kept=close_kept)
    return JobStreams(stdin, Pump(files.read_end, files.log, stderr=stderr))


def adopted_streams(
    inherited: InheritedChild, files: AdoptedFiles, close_kept: Callable[[], Awaitable[None]]
) -> JobStreams:
    """This server's ends of the streams of a job that an earlier one made; they are taken out of what it left.

    Args:
        inherited: of the job.
        files: likewise.
        close_kept: has the launcher close what it keeps of the stdin.
    """
    terminal = _terminal_of(inherited)
    keeps = inherited.keeps
    queue, pipe = keeps.pop(QUEUE, None), keeps.pop(STDIN, None)
    stdin: Stdin | None = None
    if queue is not None:
        stdin = Stdin(queue, pipe, close_kept=close_kept) if files.typed is None else TerminalInput(queue, files.typed)
    pump = Pump(inherited.output_read, files.log, stderr=keeps.pop(STDERR, None), terminal=terminal)
    keeps.pop(TERMINAL, None), keeps.pop(_TERMINAL_PIPE, None)
    return JobStreams(stdin, pump)


def outputs_of(inherited: InheritedChild) -> list[Source]:
    """Where there may be output that nobody has taken."""
    sources = [Source(inherited.output_read, Stream.BOTH, _terminal_of(inherited))]
    if STDERR in inherited.keeps:
        sources.append(Source(inherited.keeps[STDERR], Stream.STDERR))
    return sources


def _terminal_of(inherited: InheritedChild) -> TerminalEnds | None:
    master, pipe = inherited.keeps.get(TERMINAL), inherited.keeps.get(_TERMINAL_PIPE)
    return None if master is None or pipe is None else TerminalEnds(master=master, pipe=pipe)
