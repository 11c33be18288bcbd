"""Receiving one output over several calls, each of which begins at its first byte. Pure.

A follower outlives its connection: the server ends each after a day, and networks end them when they like. The contract
has no offset to resume at, so a new call brings all of the output once more, and what was received before is skipped.
"""

from __future__ import annotations

from jobmaster.errors import JobmasterError


class OutputIncomplete(JobmasterError):
    """The rest of an output is not to be had any more: what was received is less than the job has written."""


class Resumption:
    """How far one output has been received."""

    def __init__(self) -> None:
        self._received = 0
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
