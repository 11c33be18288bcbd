"""How long the service manager waits, and what servers and manager are told therefore."""

from __future__ import annotations

import os

import pytest

from jobmaster.launcher.watchdog import ALIVE_VARIABLE, for_server, tell_again_and_again, watchdog_seconds
from tests.launcher.test_servers import FakePoller


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_what_the_manager_waits(environment: dict[str, str], seconds: float | None) -> None:
    """It is the manager's number, where it is meant for this process, and no other."""
    assert watchdog_seconds(environment) == seconds


def test_what_a_server_is_told() -> None:
    """How often it is to speak, and nothing of the manager; where that does not wait, it is told nothing."""
    assert for_server({"A": "b", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 60.0) == {
        "A": "b",
        ALIVE_VARIABLE: "10",
    }
    assert for_server({"A": "b", "WATCHDOG_PID": "1", ALIVE_VARIABLE: "3"}, None) == {"A": "b"}


def test_the_manager_is_told_in_time() -> None:
    """At once, and three times in the time that it waits, from then on."""
    poller, told = FakePoller(), []
    tell_again_and_again(poller, 60.0, lambda: told.append(poller.now))
    poller.go_on(100)
    assert told == [0, 20, 40, 60, 80, 100]


def test_a_manager_that_does_not_wait() -> None:
    """It is told nothing."""
    poller, told = FakePoller(), []
    tell_again_and_again(poller, None, lambda: told.append(poller.now))
    poller.go_on(1000)
    assert told == []
