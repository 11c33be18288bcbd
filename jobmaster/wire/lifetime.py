"""How long a connection lives: pure decisions on a clock that the caller reads.

A silent peer is sent a PING, and given up when it does not answer; a connection without calls ends after a while; an
old one is shut down, so that the client connects anew with the certificate, and to the server, that are current by
then. The age has a jitter, so that connections made together do not come back together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class LifetimePolicy:
    """Seconds.

    Attributes:
        preface: until the peer's first SETTINGS.
        quiet: without a byte from the peer, before it is sent a PING.
        answer: for its answer to that, once TCP has taken it; what TCP took before, the peer receives before.
        stall: for its taking the bytes of one write.
        idle: without a call before the connection is ended.
        age: before it is shut down; `grace` later it is ended, with its calls.
        goaway: between the first GOAWAY, which lets calls under way come in, and the one that is final.
    """

    preface: float = 10.0
    quiet: float = 30.0
    answer: float = 30.0
    stall: float = 30.0
    idle: float = 15 * 60.0
    age: float = 24 * 3600.0
    grace: float = 60.0
    goaway: float = 1.0


SERVER_POLICY: Final = LifetimePolicy()
CLIENT_POLICY: Final = LifetimePolicy(idle=math.inf, age=math.inf)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this moment."""

    until: float


@dataclass(frozen=True, slots=True)
class SendPing:
    """Send a PING."""


@dataclass(frozen=True, slots=True)
class ShutDown:
    """Send GOAWAY, and end when the calls have ended."""

    reason: str


@dataclass(frozen=True, slots=True)
class SendFinalGoaway:
    """Send the GOAWAY that names the last call that is accepted."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the connection now."""

    reason: str


Decision = Wait | SendPing | ShutDown | SendFinalGoaway | GiveUp


class Lifetime:
    """The clock of one connection. Each `on_…` records what happened, `decide` says what is due."""

    def __init__(self, policy: LifetimePolicy, *, now: float, jitter: float) -> None:
        """`jitter` stretches the age, from -0.1 to 0.1 of it."""
        self._policy = policy
        self._opened = now
        self._last_received = now
        self._is_pinged = False
        self._ping_sent = math.inf
        self._writing_since = math.inf
        self._idle_since = now
        self._has_settings = False
        self._expires = now + policy.age * (1 + jitter)
        self._shutting_down = math.inf
        self._final = False

    def on_bytes(self, now: float) -> None:
        """The peer sent something."""
        self._last_received = now
        self._is_pinged = False
        self._ping_sent = math.inf

    def on_ping_sent(self, now: float) -> None:
        """TCP has taken the PING, and all that was to be sent before it."""
        if self._is_pinged:
            self._ping_sent = now

    def on_write(self, now: float) -> None:
        """Something is handed to the peer."""
        self._writing_since = now

    def on_written(self) -> None:
        """The peer has taken it."""
        self._writing_since = math.inf

    def on_settings(self) -> None:
        """The peer's first SETTINGS have come."""
        self._has_settings = True

    def on_busy(self) -> None:
        """There is a call."""
        self._idle_since = math.inf

    def on_idle(self, now: float) -> None:
        """The last call has ended."""
        self._idle_since = now

    def on_shut_down(self, now: float) -> None:
        """The first GOAWAY has been sent."""
        self._shutting_down = min(self._shutting_down, now)

    def on_final_goaway(self) -> None:
        """The final one too."""
        self._final = True

    def decide(self, now: float) -> Decision:
        """What is due at `now`; to be asked again once it has been done and recorded."""
        policy = self._policy
        due: list[tuple[float, Decision]] = [
            (math.inf if self._has_settings else self._opened + policy.preface, GiveUp("no HTTP/2 settings in time")),
            (self._ping_sent + policy.answer, GiveUp("no answer to a ping")),
            (self._writing_since + policy.stall, GiveUp("the peer took nothing of what was sent")),
            (math.inf if self._is_pinged else self._last_received + policy.quiet, SendPing()),
        ]
        if math.isinf(self._shutting_down):
            due.append((self._idle_since + policy.idle, ShutDown("idle")))
            due.append((self._expires, ShutDown("old")))
        else:
            due.append((math.inf if self._final else self._shutting_down + policy.goaway, SendFinalGoaway()))
            due.append((self._expires + policy.grace, GiveUp("calls outlasted the grace of an old connection")))
        moment, decision = min(due, key=lambda entry: entry[0])
        if moment > now:
            return Wait(min(moment, now + policy.stall))  # a write that begins meanwhile does not wake the watchdog
        if isinstance(decision, SendPing):
            self._is_pinged = True
        return decision
