"""Output whose every byte is known beforehand: numbered lines, and a last one that says how many there were. Pure."""

from __future__ import annotations

from typing import Final

from tests.bench.load import WrongAnswer

LENGTH: Final = 16
"""Bytes of a line."""
AT_A_TIME: Final = 16
"""Lines that the script writes in one go, all in one write(2)."""
_NUMBERS: Final = " ".join(f"$((i+{number}))" for number in range(AT_A_TIME))
SCRIPT: Final = (
    "exec 2>/dev/null; trap 'over=1' TERM; i=0; "
    f'while [ -z "$over" ]; do printf "%015d\\n" {_NUMBERS}; i=$((i+{AT_A_TIME})); sleep 0.05; done; '
    'printf "end %011d\\n" "$i"'
)
"""Writes lines, some 20 times a second, until SIGTERM; then the last one."""


class Received:
    """What one follower has received.

    Attributes:
        last_at: when something came last; None before that.
    """

    def __init__(self) -> None:
        self.last_at: float | None = None
        self._longest_silence = 0.0
        self._lines = 0
        self._rest = b""
        self._has_ended = False

    def begin_silence(self) -> None:
        """Forgets the silences that were; one that lasts counts from its beginning."""
        self._longest_silence = 0.0

    def silence(self, now: float) -> float:
        """Seconds without a chunk, at most, since `begin_silence`; one that lasts counts until now."""
        return self._longest_silence if self.last_at is None else max(self._longest_silence, now - self.last_at)

    def take(self, chunk: bytes, at: float) -> None:
        """Takes what has come.

        Raises:
            WrongAnswer: it is not what was written next: bytes are lost, doubled or changed.
        """
        if self.last_at is not None:
            self._longest_silence = max(self._longest_silence, at - self.last_at)
        self.last_at = at
        whole = self._rest + chunk
        end = len(whole) - len(whole) % LENGTH
        self._rest = whole[end:]
        for start in range(0, end, LENGTH):
            self._take_line(whole[start : start + LENGTH])

    def _take_line(self, line: bytes) -> None:
        if self._has_ended:
            raise WrongAnswer(f"{line!r} came after the last line")
        if line == b"end %011d\n" % self._lines:
            self._has_ended = True
        elif line == b"%015d\n" % self._lines:
            self._lines += 1
        else:
            raise WrongAnswer(f"{line!r} came where line {self._lines} was to come: bytes are lost, doubled or changed")

    def require_end(self) -> None:
        """Checks that all has come.

        Raises:
            WrongAnswer: bytes at the end are missing.
        """
        if self._rest or not self._has_ended:
            raise WrongAnswer(f"the output broke off after line {self._lines}: {self._rest!r}")
