"""The signals that end the server, replace it, or have it read its configuration, from before there is an event loop until after."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

UPGRADE_SIGNAL: Final = signal.SIGUSR2
"""The server hands its jobs over to the next one and ends, as nginx takes it."""

RELOAD_SIGNAL: Final = signal.SIGHUP
"""The server reads its configuration again. Always: whether a terminal has hung up, or somebody wants that, nobody can tell, and
a server that reads what it has read already does no harm."""

_HELD_SIGNALS: Final = frozenset({UPGRADE_SIGNAL, RELOAD_SIGNAL})
"""Blocked until they can be received."""

SignalsReceived = Sequence[int]


def ignore_signals() -> None:
    """Ignores these signals for what is left of the process.

    An interpreter that ends sets what has a handler back to its default, which would be to die; what is ignored stays.
    """
    for number in (*END_SIGNALS, *_HELD_SIGNALS):
        signal.signal(number, signal.SIG_IGN)


def receive_signals() -> SignalsReceived:
    """From now on the signals that end the server do nothing but to be noted in what is returned, which grows.

    Those that ask for an upgrade or for a reload do nothing at all: what starts now is the program that is installed, and reads
    the configuration that is there.

    Trio's own receivers take precedence while they are open, and leave this behind when they are closed. The launcher
    starts the server with these signals blocked, so that none comes before this. An upgrade is not for a server that
    ends, nor is a reload: their signals are dropped then, and stay blocked until `receive_held_signals`.
    """
    received: list[int] = []
    for number in END_SIGNALS:
        signal.signal(number, lambda number, _frame: received.append(number))
    for number in _HELD_SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
    return received


def receive_held_signals() -> None:
    """From now on the signals of an upgrade and of a reload come, and those that came before; Trio's receiver is open."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_SIGNALS)
