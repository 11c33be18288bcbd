"""When a connection is asked, told to go, and given up."""

from __future__ import annotations

import math

import pytest

from jobmaster.wire.lifetime import (
    Decision,
    GiveUp,
    Lifetime,
    LifetimePolicy,
    SendFinalGoaway,
    SendPing,
    ShutDown,
    Wait,
)

POLICY = LifetimePolicy(preface=10, quiet=30, answer=5, stall=40, idle=100, age=1000, grace=60, goaway=1)


def lifetime(*, settings: bool = True, jitter: float = 0.0) -> Lifetime:
    """A connection opened at 0."""
    result = Lifetime(POLICY, now=0, jitter=jitter)
    if settings:
        result.on_settings()
    return result


def test_no_settings() -> None:
    """A peer that sends no SETTINGS is given up when their time is over, and not before."""
    silent = lifetime(settings=False)
    assert silent.decide(0) == Wait(10)
    assert silent.decide(10) == GiveUp("no HTTP/2 settings in time")


def test_quiet_peer_is_asked_once_and_given_up() -> None:
    """A peer that says nothing is sent one PING, and given up when it does not answer."""
    quiet = lifetime()
    assert quiet.decide(0) == Wait(30)
    assert quiet.decide(30) == SendPing()
    quiet.on_ping_sent(30)
    assert quiet.decide(30) == Wait(35)
    assert quiet.decide(35) == GiveUp("no answer to a ping")


def test_an_answer_has_its_time_from_when_the_ping_was_sent() -> None:
    """What the peer has to receive before a PING does not count against it, and one that it has answered is no more."""
    slow = lifetime()
    assert slow.decide(30) == SendPing()
    assert slow.decide(36) == Wait(76)
    slow.on_ping_sent(37)
    assert slow.decide(41) == Wait(42)
    slow.on_bytes(41)
    assert slow.decide(50) == Wait(71)
    answered_before = lifetime()
    assert answered_before.decide(30) == SendPing()
    answered_before.on_bytes(31)
    answered_before.on_ping_sent(32)
    assert answered_before.decide(40) == Wait(61)


def test_peer_that_takes_nothing() -> None:
    """A peer that does not take what was handed to it in one go is given up, whatever it says meanwhile."""
    stalled, slow = lifetime(), lifetime()
    for connection in (stalled, slow):
        connection.on_busy()
        connection.on_write(10)
        connection.on_bytes(49)
    slow.on_written()
    slow.on_write(49)
    assert stalled.decide(49.5) == Wait(50)
    assert stalled.decide(50) == GiveUp("the peer took nothing of what was sent")
    assert slow.decide(50) == Wait(79)
    slow.on_bytes(70)
    slow.on_written()
    assert slow.decide(90) == Wait(100)


def test_a_write_that_begins_is_looked_at_in_time() -> None:
    """However far away all else is, a connection is looked at again before a write of now can be too old."""
    patient = LifetimePolicy(quiet=500, stall=40)
    connection = Lifetime(patient, now=0, jitter=0)
    connection.on_settings()
    assert connection.decide(7) == Wait(47)


def test_any_byte_is_an_answer() -> None:
    """Whatever the peer sends shows that it is there."""
    asked = lifetime()
    asked.decide(30)
    asked.on_bytes(34)
    assert asked.decide(34) == Wait(64)


def test_idle() -> None:
    """A connection without calls is told to end after a while; one with a call is not."""
    idle, busy = lifetime(), lifetime()
    busy.on_busy()
    for connection in (idle, busy):
        connection.on_bytes(99)
    assert idle.decide(100) == ShutDown("idle")
    assert busy.decide(100) == Wait(129)
    busy.on_idle(100)
    busy.on_bytes(199)
    assert busy.decide(200) == ShutDown("idle")


@pytest.mark.parametrize(("jitter", "end"), [(-0.1, 900.0), (0.0, 1000.0), (0.1, 1100.0)])
def test_age(jitter: float, end: float) -> None:
    """An old connection is told to end at its own time, and given up when its calls outlast the grace."""
    old = lifetime(jitter=jitter)
    old.on_busy()
    old.on_bytes(end - 1)
    assert old.decide(end - 0.5) == Wait(end)
    assert old.decide(end) == ShutDown("old")
    old.on_shut_down(end)
    assert old.decide(end) == Wait(end + 1)
    assert old.decide(end + 1) == SendFinalGoaway()
    old.on_final_goaway()
    old.on_bytes(end + 59)
    assert isinstance(old.decide(end + 60), GiveUp)


def test_told_to_end_for_another_reason() -> None:
    """After the first GOAWAY neither idleness nor age tells a second time; the final one comes a moment later."""
    going = lifetime()
    going.on_shut_down(50)
    going.on_bytes(50)
    decisions: list[Decision] = [going.decide(50), going.decide(51)]
    going.on_final_goaway()
    going.on_bytes(200)
    assert decisions == [Wait(51), SendFinalGoaway()]
    assert going.decide(200) == Wait(230)


def test_clients_do_not_end_by_themselves() -> None:
    """Without idle time and age only silence matters."""
    client = Lifetime(LifetimePolicy(idle=math.inf, age=math.inf), now=0, jitter=0)
    client.on_settings()
    client.on_bytes(1e9)
    assert client.decide(1e9) == Wait(1e9 + 30)
