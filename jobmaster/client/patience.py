"""When to make a call again that broke, and when to give it up. Pure.

A server that dies is another one a second or two later, and one that is replaced the same; one that cannot be started
is tried again by its launcher for minutes. So calls are repeated for a time, with pauses that grow and have a jitter.
"""

from __future__ import annotations

from typing import Final

FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 3.0
"""Seconds before the next call: doubled each time, up to the last."""
TOLD_AFTER: Final = 3.0
"""Seconds of failures, by which time a server that was replaced is there: who waits is told why."""
SERVED_SECONDS: Final = 10.0
"""A call that lasts as a job does, and was open for so long before it broke, was served."""


class Patience:
    """How long one thing has been tried in vain."""

    def __init__(self, seconds: float) -> None:
        """Begins.

        Args:
            seconds: how long it may be, from the first failure on.
        """
        self._seconds = seconds
        self._failing_since: float | None = None
        self._idle_since: float | None = None
        """Since when no call has been open for long."""
        self._failures = 0
        self._begun: float | None = None

    def call_begins(self, now: float) -> None:
        """A server has taken the connection, and the call is on its way."""
        self._begun = now

    def progress(self) -> None:
        """Something has come of it."""
        self._failing_since = self._idle_since = None
        self._failures = 0

    def is_to_be_told(self, now: float) -> bool:
        """Whether no call has been open for so long that who waits wonders."""
        return self._idle_since is not None and now - self._idle_since >= TOLD_AFTER

    def next_pause(self, now: float, jitter: float, *, was_in_vain: bool = False) -> float | None:
        """Seconds to wait after a call that broke; None where it has been tried long enough.

        Args:
            now: the time.
            jitter: from 0.5 to 1.5, so that the clients of a server that comes back do not all come at once.
            was_in_vain: the call was not served, however long it was open.
        """
        if self._begun is not None and not was_in_vain:
            if now - self._begun >= TOLD_AFTER:
                self._idle_since = None
            if now - self._begun >= SERVED_SECONDS:
                self.progress()
        self._begun = None
        if self._idle_since is None:
            self._idle_since = now
        if self._failing_since is None:
            self._failing_since = now
        left = self._failing_since + self._seconds - now
        if left <= 0:
            return None
        pause = min(FIRST_PAUSE * 2.0**self._failures, LAST_PAUSE) * jitter
        self._failures = min(self._failures + 1, 16)
        return min(pause, left)
