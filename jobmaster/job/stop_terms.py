"""How a job is to be stopped, where that is not as its server stops any job. Pure; values that exist are valid."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from jobmaster.errors import InvalidRequest
from jobmaster.job.signals import check_signal

DEFAULT_SIGNAL: Final = int(signal.SIGTERM)
MOST_GRACE_MS: Final = 60 * 60 * 1000
"""Milliseconds: an hour, as of the server's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTerms:
    """What the processes of a job get first, and how long they have then.

    Attributes:
        signal: the first signal.
        grace_ms: milliseconds until SIGKILL; None: as the server has it.

    Raises:
        InvalidRequest: no job can be meant.
    """

    signal: int = DEFAULT_SIGNAL
    grace_ms: int | None = None

    def __post_init__(self) -> None:
        check_signal(self.signal, "stop_signal", to_be_handled=True)
        if self.grace_ms is not None and not 0 <= self.grace_ms <= MOST_GRACE_MS:
            raise InvalidRequest(f"grace_ms is {MOST_GRACE_MS} at most, which is an hour", field="grace_ms")

    @classmethod
    def asked(cls, number: int, grace_ms: int | None) -> StopTerms | None:
        """As a caller asks for it, with 0 for no signal; None where nothing is asked for.

        Raises:
            InvalidRequest: no job can be meant.
        """
        if not number and grace_ms is None:
            return None
        return cls(signal=number or DEFAULT_SIGNAL, grace_ms=grace_ms)

    def grace_seconds(self, default: float) -> float:
        """How long the grace period is, where that of the server is `default`."""
        return default if self.grace_ms is None else self.grace_ms / 1000
