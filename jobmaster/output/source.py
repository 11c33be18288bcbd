"""Where the output of a job comes from: a pipe, or a terminal by way of one."""

from __future__ import annotations

from dataclasses import dataclass

from jobmaster.output.index import Stream
from jobmaster.output.terminal import TerminalEnds, bytes_in, drain


@dataclass(slots=True)
class Source:
    """A pipe of a job.

    Attributes:
        terminal: what it is filled from, where that is a terminal.
        is_at_end: every writer had closed it, and it was empty, when it was last looked at; a terminal may be opened again.
        may_have_more: it is to be looked at before anything tells of new bytes, which the terminal does not of old ones.
    """

    pipe: int
    stream: Stream
    terminal: TerminalEnds | None = None
    is_at_end: bool = False
    may_have_more: bool = False

    def __post_init__(self) -> None:
        self.may_have_more = self.terminal is not None  # an earlier server may have left some in the pipe

    @property
    def told_by(self) -> int:
        """What is readable when new bytes have come."""
        return self.pipe if self.terminal is None else self.terminal.master

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of it."""
        return (self.pipe, *(self.terminal or ()))

    def take_left(self) -> int:
        """Bytes that nobody will move any more; those of a terminal are taken out of it."""
        return bytes_in(self.pipe) + (0 if self.terminal is None else drain(self.terminal))
