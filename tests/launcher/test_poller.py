"""Timers of a launcher that is suspended, on a time that is given."""

from __future__ import annotations

from typing import Final

import pytest

from jobmaster.launcher import poller as poller_module
from jobmaster.launcher.poller import LATE_SECONDS, Poller

PAUSE: Final = 1000.0


class Host:
    """The time, and an epoll in which nothing is ever ready."""

    def __init__(self) -> None:
        self.now = 0.0
        self.suspensions: list[float] = []

    def monotonic(self) -> float:
        """As of the time module."""
        return self.now

    def poll(self, seconds: float) -> list[tuple[int, int]]:
        """Waits as long as it is to, and for the next suspension."""
        self.now += seconds + (self.suspensions.pop(0) if self.suspensions else 0.0)
        return []


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """In the place of this one."""
    made = Host()
    monkeypatch.setattr(poller_module, "time", made)
    return made


def fires_at(host: Host, poller: Poller, seconds: float) -> float:
    """When a timer of so many seconds calls back."""
    fired: list[float] = []
    poller.call_later(seconds, lambda: fired.append(host.now))
    while not fired:
        poller.run_once()
    return fired[0]


@pytest.fixture
def poller(host: Host, monkeypatch: pytest.MonkeyPatch) -> Poller:
    """One that waits in that epoll."""
    made = Poller()
    monkeypatch.setattr(made, "_epoll", host)
    return made


@pytest.mark.parametrize("seconds", [0.0, 0.05, 10.0, 300.0])
def test_a_timer(host: Host, poller: Poller, seconds: float) -> None:
    """It calls back at its time, where nothing is late."""
    assert fires_at(host, poller, seconds) == pytest.approx(seconds)


@pytest.mark.parametrize("suspensions", [[PAUSE], [0.0, PAUSE, PAUSE]])
def test_a_suspension(host: Host, poller: Poller, suspensions: list[float]) -> None:
    """Timers wait for their time without the time of the suspensions, which are told."""
    told: list[float] = []
    poller.on_suspended = told.append
    host.suspensions = list(suspensions)
    assert fires_at(host, poller, 300.0) == pytest.approx(300.0 + sum(suspensions))
    assert told == pytest.approx([seconds for seconds in suspensions if seconds])


def test_small_delays_count(host: Host, poller: Poller) -> None:
    """What is late on a busy host moves no timer."""
    host.suspensions = [LATE_SECONDS / 2] * 4
    assert fires_at(host, poller, 300.0) == pytest.approx(300.0)
