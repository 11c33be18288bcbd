"""A child of the launcher as the server holds it, and the values that are asked for and told."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, assert_never, final

import trio

from jobmaster.errors import HostError, JobmasterError
from jobmaster.launcher import protocol
from jobmaster.launcher.protocol import MAX_REASON, UNKNOWN_STATUS, Phase, ProtocolError

_TICKS: Final = os.sysconf("SC_CLK_TCK")
"""Of /proc/PID/stat, a second."""


class LauncherLost(HostError):
    """The launcher has died, or never answered: no child can be started, and no status will be told."""


class StatusUnknown(HostError):
    """A child has died, and the kernel tells nobody but its tracer how."""


class LaunchRefused(JobmasterError):
    """There is no child: the launcher or the kernel refused. `errno` says why."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildAccount:
    """Whom a child becomes. `keeps_capabilities` is for root asked for by name."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    keeps_capabilities: bool

    def __post_init__(self) -> None:
        if self.keeps_capabilities and self.uid != 0:
            raise ValueError("only root keeps capabilities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to start.

    Attributes:
        id: of this child alone; never used again.
        argv: a name without a slash is looked up along PATH of `environment`, in `working_folder`.
        account: None leaves user and groups as they are, for a server that is not root.
        open_files: soft RLIMIT_NOFILE, lowered to the hard limit where that is less.
    """

    id: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    working_folder: str
    account: ChildAccount | None
    open_files: int
    oom_score_adj: int = 0
    umask: int = 0o022
    nice: int = 0

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("argv is empty")


@dataclass(frozen=True, slots=True)
class Executed:
    """The kernel executed the command's program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecFailed:
    """A step before the command's first instruction failed.

    Attributes:
        stage: which: `lookup` (no such command for this user) and `exec` are about the command, `working_folder` about
            that, others about the host.
    """

    errno: int
    stage: str


@dataclass(frozen=True, slots=True)
class NeverExecuted:
    """It was abandoned, or killed, before it executed the command."""


ExecOutcome = Executed | ExecFailed | NeverExecuted


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStatus:
    """A child's end: `wait_status` as of wait(2), which is the command's own where that was `executed`."""

    wait_status: int
    executed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody has ordered for a child; the launcher keeps the first one for the next server.

    Attributes:
        kind: "stop", for instance.
        by: the client; None for the server itself.
        reason: for people; at most `MAX_REASON` characters are kept.
    """

    kind: str
    at: datetime
    by: str | None
    reason: str = ""

    def message(self, child_id: str) -> protocol.Order:
        """As the launcher is told it."""
        reason = self.reason[:MAX_REASON]
        return protocol.Order(id=child_id, kind=self.kind, at=self.at.isoformat(), by=self.by, reason=reason)

    @staticmethod
    def of(message: protocol.Order) -> Order:
        """As the launcher gave it back.

        Raises:
            ProtocolError: its time is none.
        """
        try:
            at = datetime.fromisoformat(message.at)
        except ValueError as error:
            raise ProtocolError(f"at cannot be {message.at!r}") from error
        return Order(kind=message.kind, at=at, by=message.by, reason=message.reason)


@final
class Child:
    """A child of the launcher, held until `go`, or one that an earlier server has left.

    Made by the launcher's side alone; `release` or `leave` it in any case.
    """

    def __init__(
        self, child_id: str, go_write: int = -1, *, lost: trio.Event, forget: Callable[[str, bool], trio.Event]
    ) -> None:
        self.id = child_id
        self.pid = 0
        self.start_time = 0
        """Field 22 of /proc/PID/stat, in clock ticks since boot: with the pid, this process and no other."""
        self._lost = lost
        self._forget = forget
        self._pidfd = -1
        self._go_write = go_write
        self._answered = trio.Event()
        self._decided = trio.Event()
        self._ended = trio.Event()
        self._refusal: int | None = None
        self._outcome: ExecOutcome | None = None
        self._status: ChildStatus | None = None
        self._died_at: int | None = None
        self._is_unwanted = False
        self._is_withheld = False
        self._forgotten: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<Child {self.id} pid={self.pid} {self._outcome or 'held'} {self._status or ''}>"

    @property
    def outcome(self) -> ExecOutcome | None:
        """How far it got, as far as that is known."""
        return self._outcome

    @property
    def status(self) -> ChildStatus | None:
        """Its end, if the launcher has told it."""
        return self._status

    @property
    def died_at(self) -> datetime | None:
        """When it died, if the launcher has told it; by the clock on the wall as it is set now."""
        if self._died_at is None:
            return None
        nanoseconds = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._died_at
        return datetime.now(UTC) - timedelta(microseconds=nanoseconds // 1000)

    def age(self) -> float:
        """Seconds since it was started, by CLOCK_BOOTTIME as `start_time`, of which the kernel tells whole ticks.

        Until it died, if the launcher has told when.
        """
        until = time.clock_gettime(time.CLOCK_BOOTTIME) if self._died_at is None else self._died_at / 1e9
        return until - (self.start_time + 1) / _TICKS

    def has_died(self) -> bool:
        """Whether it has died, reaped or not; one that was released is as good as dead."""
        if self._pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def wait_died(self) -> None:
        """Waits until it has died or is released. One task at a time.

        Raises:
            LauncherLost: the launcher has died and it lives; the kernel kills it unless its program forbade that.
        """
        while not self.has_died():
            if self._lost.is_set():
                raise LauncherLost("the launcher has died")
            with suppress(trio.ClosedResourceError):  # it was released, or the launcher is lost
                await trio.lowlevel.wait_readable(self._pidfd)

    def go(self) -> None:
        """Lets it execute the command."""
        if self._go_write >= 0:
            with suppress(BrokenPipeError):  # it has died
                os.write(self._go_write, b"g")
        self.abandon()

    def abandon(self) -> None:
        """Tells it to end without executing the command, if it is still held."""
        if self._go_write >= 0:
            os.close(self._go_write)
            self._go_write = -1

    async def wait_executed(self) -> ExecOutcome:
        """Waits until the command was executed, or will never be. The launcher sets no deadline.

        Raises:
            LauncherLost: nobody will know.
        """
        await self._decided.wait()
        if self._outcome is None:
            raise LauncherLost("the launcher has died")
        return self._outcome

    async def wait_status(self) -> ChildStatus:
        """Waits until it has died and the launcher has told its status, also where a tracer keeps it from being reaped.

        Raises:
            LauncherLost: nobody will know.
            StatusUnknown: a tracer keeps it, and the launcher may not read it elsewhere.
        """
        await self._ended.wait()
        if self._is_withheld:
            raise StatusUnknown(
                "another process traces its main process and withholds how that died; "
                "a server with CAP_SYS_PTRACE would know"
            )
        if self._status is None:
            raise LauncherLost("the launcher has died")
        return self._status

    def send_signal(self, number: int) -> bool:
        """Sends a signal; whether it lived: one that has died, or was released, is left alone."""
        if self.has_died():  # the kernel takes a signal for a zombie too
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def release(self) -> None:
        """Lets the launcher forget it, and closes its descriptors; one that lives is killed. Idempotent."""
        self._close(is_recorded=True)

    def leave(self) -> None:
        """Closes its descriptors and leaves it to the next server; one that is still held is abandoned. Idempotent."""
        self._close(is_recorded=False)

    def _close(self, *, is_recorded: bool) -> None:
        if self._forgotten is not None:
            return
        self.abandon()
        self._forgotten = self._forget(self.id, is_recorded)
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            pidfd, self._pidfd = self._pidfd, -1  # a number that is used again would be another process
            os.close(pidfd)

    async def wait_forgotten(self) -> None:
        """Waits until the launcher has closed every descriptor of a child that was released, or is lost.

        One that was left to the next server is not waited for.
        """
        if self._forgotten is not None:
            await self._forgotten.wait()

    # What the launcher tells, and what its loss means.

    def _on_inherited(self, row: protocol.Table, pidfd: int = -1) -> None:
        self.pid, self.start_time, self._pidfd = row.pid, row.start_time, pidfd
        self._answered.set()
        if row.phase is not Phase.HELD:
            self._outcome = _outcome(row)
            self._decided.set()
        if row.wait_status is not None:
            self._on_ended(row.wait_status, row)

    def _on_started(self, message: protocol.Started, pidfd: int = -1) -> None:
        self.pid, self.start_time, self._pidfd = message.pid, message.start_time, pidfd
        if self._is_unwanted and pidfd >= 0:
            self.send_signal(signal.SIGKILL)
        self._answered.set()

    def _on_refused(self, number: int) -> None:
        self._refusal = number
        self._end_waits()

    def _on_executed(self) -> None:
        self._outcome = Executed()
        self._decided.set()

    def _on_exited(self, message: protocol.Exited) -> None:
        self._on_ended(message.wait_status, message)

    def _on_ended(self, wait_status: int, message: protocol.Exited | protocol.Table) -> None:
        self._outcome = _outcome(message)
        self._died_at = message.died_at
        self._is_withheld = wait_status == UNKNOWN_STATUS
        if not self._is_withheld:
            self._status = ChildStatus(wait_status=wait_status, executed=message.phase is Phase.EXECUTED)
        self._end_waits()

    def _on_lost(self) -> None:
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)  # wakes who waits; the descriptor stays open
        self._end_waits()

    def _end_waits(self) -> None:
        self._answered.set()
        self._decided.set()
        self._ended.set()

    async def _wait_answered(self) -> None:
        """Waits until it is held.

        Raises:
            LaunchRefused: there is no child.
            LauncherLost: nobody will know.
        """
        await self._answered.wait()
        if self._refusal is not None:
            raise LaunchRefused(self._refusal)
        if self._pidfd < 0:
            if self._lost.is_set():
                raise LauncherLost("the launcher has died")
            raise LaunchRefused(errno.EMFILE)  # it lives, but its pidfd could not be opened here

    async def _withdraw(self) -> None:
        """Ends a child that nobody waits for any more, known or still to be told of; at once if there is none."""
        self._is_unwanted = True
        self.abandon()
        if self._pidfd >= 0:
            self.send_signal(signal.SIGKILL)
        await self._ended.wait()


def _outcome(message: protocol.Exited | protocol.Table) -> ExecOutcome:
    match message.phase:
        case Phase.EXECUTED:
            return Executed()
        case Phase.FAILED:
            return ExecFailed(errno=message.errno, stage=message.stage)
        case Phase.ABANDONED | Phase.NEVER_RAN | Phase.HELD:
            return NeverExecuted()
        case unreachable:
            assert_never(unreachable)
