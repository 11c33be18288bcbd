"""Whether the kernel's clock is kept in step with others, which certificates and records need."""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from typing import Final

from jobmaster.server.findings import Finding, Verdict

_STA_UNSYNC: Final = 0x40
_MICROSECONDS: Final = 1000
_UNKNOWN: Final = "how far it is off cannot be known from here"


class _Timex(ctypes.Structure):
    """The beginning of struct timex, and room for the rest (adjtimex(2))."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What the kernel says.

    Attributes:
        is_synchronised: somebody who compares it with others has said so.
        largest_error: milliseconds, as that one reckons.
    """

    is_synchronised: bool
    largest_error: float


def look_at_clock() -> Clock | None:
    """Asks the kernel, which changes nothing; None where this process must not, as in a unit with `ProtectClock=`.

    Raises:
        OSError: it does not answer.
    """
    timex = _Timex()  # modes 0: nothing is set, and no privilege needed
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.byref(timex)) < 0:
        number = ctypes.get_errno()
        if number == errno.EPERM:
            return None
        raise OSError(number, os.strerror(number))
    return Clock(is_synchronised=not timex.status & _STA_UNSYNC, largest_error=timex.maxerror / _MICROSECONDS)


def of_clock(clock: Clock | None) -> Finding:
    """A clock that nobody sets makes certificates expire at a wrong time, and records tell one."""
    if clock is None:
        text = "the kernel must not be asked here whether the clock is synchronised"
        return Finding(topic="clock", verdict=Verdict.WARNING, text=text, remedy="ask in a shell of the host")
    if clock.is_synchronised:
        text = f"the clock is synchronised, to {clock.largest_error:.0f} ms as the kernel reckons; {_UNKNOWN}"
        return Finding(topic="clock", verdict=Verdict.OK, text=text)
    text = f"no program in this system has told the kernel that the clock is synchronised; {_UNKNOWN}"
    remedy = "run chrony or systemd-timesyncd, unless the host around this system sees to it"
    return Finding(topic="clock", verdict=Verdict.WARNING, text=text, remedy=remedy)
