"""Receiving one output over several calls. Pure.

A follower outlives its connection: the server ends each after a day, and networks end them when they like. FollowOutput
goes on at an offset. StreamOutput, which is all that a server of an earlier version has, has none to go on at: each call
brings all of the output once more, and what was received before is skipped. That holds while nothing is dropped of it.
"""

from __future__ import annotations

from jobmaster.errors import JobmasterError
from jobmaster.jobs.v1 import jobs_pb2 as pb


class OutputIncomplete(JobmasterError):
    """The rest of an output is not to be had any more: what was received is less than the job has written."""


class Resumption:
    """How far one output has been received whose calls all begin at its first byte."""

    def __init__(self, received: int = 0) -> None:
        """So many bytes came before."""
        self._received = received
        self._to_skip = 0
        self._calls = 0

    @property
    def received(self) -> int:
        """Bytes of the output that were given on."""
        return self._received

    @property
    def is_resumed(self) -> bool:
        """True in the second call and later ones."""
        return self._calls > 1

    def call_begins(self) -> None:
        """What comes next is the output's first byte."""
        self._calls += 1
        self._to_skip = self._received

    def take(self, chunk: bytes) -> bytes:
        """What of the call's next bytes is new; may be none of them."""
        skipped = min(self._to_skip, len(chunk))
        self._to_skip -= skipped
        fresh = chunk[skipped:] if skipped else chunk
        self._received += len(fresh)
        return fresh

    def call_ends(self) -> None:
        """The server says that this was all.

        Raises:
            OutputIncomplete: it is less than what an earlier call brought, so that it cannot be the same output.
        """
        if self._to_skip:
            raise OutputIncomplete(
                f"the server's output of the job is {self._to_skip} bytes shorter than what it had sent before the "
                "connection was lost: what was received cannot be relied on to be all"
            )


class Extent:
    """How far one output has been received whose bytes have offsets, and what of it is not there.

    A new call is asked for the last byte that came, too: a server that does not have it has another, shorter output.

    Attributes:
        offset: of the next byte.
        received: bytes that were given on.
        lost, dropped, missing, pruned: bytes that are not there, as of `errors.OutputIncomplete`.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.received = 0
        self.lost = 0
        self.dropped = 0
        self.missing = 0
        self.pruned = 0
        self._calls = 0
        self._has_answered = False

    @property
    def is_resumed(self) -> bool:
        """True in the second call and later ones."""
        return self._calls > 1

    @property
    def is_whole(self) -> bool:
        """Whether no byte so far is one that is not there."""
        return self.received == self.offset

    def call_begins(self) -> int:
        """The offset at which a new call is to begin."""
        self._calls += 1
        self._has_answered = self.offset == 0
        return max(0, self.offset - 1)

    def take(self, offset: int, data: bytes) -> bytes:
        """What of these bytes is new; may be none of them."""
        known = self._reach(offset, len(data))
        fresh = data[known:] if known else data
        self.received += len(fresh)
        return fresh

    def take_gap(self, offset: int, length: int, reason: pb.GapReason) -> bool:
        """Says that these bytes are not there; returns whether that is news of any."""
        fresh = length - self._reach(offset, length)
        match reason:
            case pb.GAPREASON_CAPPED:
                self.dropped += fresh
            case pb.GAPREASON_NOT_SYNCED:
                self.missing += fresh
            case pb.GAPREASON_PRUNED:
                self.pruned += fresh
            case _:  # one of a later server too
                self.lost += fresh
        return fresh > 0

    def _reach(self, offset: int, length: int) -> int:
        """Goes on behind a piece; returns how many bytes of it were known."""
        self._has_answered |= length > 0
        self.lost += max(0, offset - self.offset)  # a server that leaves bytes out does not have them
        known = min(length, max(0, self.offset - offset))
        self.offset = max(self.offset, offset + length)
        return known

    def call_ends(self) -> None:
        """The server says that this was all.

        Raises:
            OutputIncomplete: it is less than what an earlier call brought, so that it cannot be the same output.
        """
        if not self._has_answered:
            raise OutputIncomplete(
                f"the server's output of the job is shorter than the {self.offset} bytes that it had told of before the "
                "connection was lost: what was received cannot be relied on to be all"
            )
