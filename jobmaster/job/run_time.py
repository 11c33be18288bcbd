"""How long a job may run, and when it is warned. Pure; values that exist are valid."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from jobmaster.errors import InvalidRequest
from jobmaster.job.signals import check_signal

MOST_MS: Final = 10 * 366 * 24 * 60 * 60 * 1000
"""Milliseconds: ten years, which no host is up for."""
DEFAULT_WARNING: Final = int(signal.SIGUSR1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTime:
    """How long a job may run, in milliseconds since its main process was started.

    Attributes:
        max_ms: after so many it is ended, as by a stop.
        warn_before_ms: its main process gets a signal so many before that; 0: none.
        warn_signal: that signal; 0 where there is none.

    Raises:
        InvalidRequest: no job can be meant.
    """

    max_ms: int
    warn_before_ms: int = 0
    warn_signal: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.max_ms <= MOST_MS:
            raise InvalidRequest(f"max_run_ms is {MOST_MS} at most, which is ten years", field="max_run_ms")
        if not self.warn_before_ms:
            if self.warn_signal:
                raise InvalidRequest("a warn_signal needs a warn_before_ms: say when", field="warn_before_ms")
            return
        if not 0 < self.warn_before_ms < self.max_ms:
            raise InvalidRequest(
                "warn_before_ms is as long as the job may run, or longer: a warning comes while it runs",
                field="warn_before_ms",
            )
        check_signal(self.warn_signal, "warn_signal", to_be_handled=True)

    @classmethod
    def asked(cls, max_ms: int, warn_before_ms: int, warn_signal: int) -> RunTime | None:
        """As a caller asks for it, with 0 for what is not asked for; None where a job may run for ever.

        Raises:
            InvalidRequest: no job can be meant.
        """
        if not max_ms:
            if warn_before_ms or warn_signal:
                raise InvalidRequest("a warning needs a max_run_ms, before which it comes", field="max_run_ms")
            return None
        if warn_before_ms and not warn_signal:
            warn_signal = DEFAULT_WARNING
        return cls(max_ms=max_ms, warn_before_ms=warn_before_ms, warn_signal=warn_signal)

    @property
    def seconds(self) -> float:
        """After which it is ended."""
        return self.max_ms / 1000

    @property
    def warn_after_seconds(self) -> float | None:
        """After which it is warned; None where it is not."""
        return (self.max_ms - self.warn_before_ms) / 1000 if self.warn_before_ms else None
