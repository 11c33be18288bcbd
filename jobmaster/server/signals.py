"""The signals that end the server, or replace it, from before there is an event loop until after."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP too: it would kill the server, and its jobs with it, without a word."""

UPGRADE_SIGNAL: Final = signal.SIGUSR2
"""The server hands its jobs over to the next one and ends, as nginx takes it."""

SignalsReceived = Sequence[int]


def ignore_signals() -> None:
    """Ignores these signals for what is left of the process.

    An interpreter that ends sets what has a handler back to its default, which would be to die; what is ignored stays.
    """
    for number in (*END_SIGNALS, UPGRADE_SIGNAL):
        signal.signal(number, signal.SIG_IGN)


def receive_signals() -> SignalsReceived:
    """From now on the signals that end the server do nothing but to be noted in what is returned, which grows.

    One that asks for an upgrade does nothing at all: what starts now is the program that is installed.

    Trio's own receivers take precedence while they are open, and leave this behind when they are closed. The launcher
    starts the server with these signals blocked, so that none comes before this. An upgrade is not for a server that
    ends: its signal is dropped then, and stays blocked until `receive_upgrades`.
    """
    received: list[int] = []
    for number in END_SIGNALS:
        signal.signal(number, lambda number, _frame: received.append(number))
    signal.signal(UPGRADE_SIGNAL, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
    return received


def receive_upgrades() -> None:
    """From now on the signal of an upgrade comes, and one that came before; Trio's receiver is open."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {UPGRADE_SIGNAL})
