"""The signals that a caller can name. Pure."""

from __future__ import annotations

import signal
from typing import Final

from jobmaster.errors import InvalidRequest

LARGEST: Final = 64
"""_NSIG of Linux on the machines that this runs on (signal(7))."""


def check_signal(number: int, field: str, *, to_be_handled: bool = False) -> None:
    """Looks whether there is such a signal.

    Args:
        number: of the signal.
        field: which has it, for the error.
        to_be_handled: it is of no use where no process can handle it.

    Raises:
        InvalidRequest: there is none.
    """
    if not 1 <= number <= LARGEST:
        raise InvalidRequest(f"there is no signal {number}: they are 1 to {LARGEST}", field=field)
    if to_be_handled and number in {signal.SIGKILL, signal.SIGSTOP}:
        name = signal.Signals(number).name
        raise InvalidRequest(f"{name} cannot be handled, so it tells a job nothing: name another signal", field=field)
