"""Plays a schedule with a registry on Trio's mock clock, and tells what came of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, assert_never

import trio
import trio.testing

from jobmaster.errors import JobmasterError
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import Held, Running
from jobmaster.run.registry import Registry, open_registry
from tests.output.stretches import bytes_of
from tests.run.faults import Faults, Threads, installed
from tests.run.records import MemoryRecords
from tests.run.schedules import Ending, Follow, Hurry, Leaves, Pause, Schedule, Start, Step, Stop, Wait, name_of
from tests.run.scripted import ScriptedExecution, ScriptedHost

LONGEST_SECONDS: Final = 600.0
"""More than all deadlines of a schedule together, on its clock."""
RELEASE_SECONDS: Final = 10.0
"""After a drain, how long those who waited may take to go on: a late thread may have to read for them first."""
LATE_THREADS_SECONDS: Final = 6.0
UNLINK_AGAIN_SECONDS: Final = 61.0
LEFTOVERS_SECONDS: Final = 6.0


class Left(Exception):
    """The caller has left its call."""


Outcome = Exception | JobId | JobRecord | bytes | None


@dataclass(slots=True, kw_only=True)
class History:
    """What came of a schedule.

    Attributes:
        outcomes: what each step's call returned or raised; a step is known by its index.
        orders: who asked which job to end (None: all), and the number of that step.
        drains: the numbers of the steps at which a drain began.
        gap: the numbers of the steps at which the first registry handed over and the next had taken over.
        unwatched: the times of these.
        hung: what did not return though all jobs had ended.
        bugs: tracebacks that were logged.
        met_before_end: failures before the registry's last steps.
        answered: the number of the step at which each call returned or raised.
        repeated: what a Start that was refused at a hand-over returned or raised when it came again.
    """

    schedule: Schedule
    host: ScriptedHost
    registry: Registry
    records: MemoryRecords
    folder: Path
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    orders: list[tuple[int, int, str]] = field(default_factory=list)
    drains: list[int] = field(default_factory=list)
    gap: tuple[int, int] = (0, 0)
    unwatched: tuple[float, float] = (0.0, 0.0)
    hung: set[int] = field(default_factory=set)
    bugs: list[str] = field(default_factory=list)
    running_at_end: int = 0
    met_before_end: int = 0
    answered: dict[int, int] = field(default_factory=dict)
    repeated: dict[int, Outcome] = field(default_factory=dict)

    @property
    def faults(self) -> Faults:
        """Those of the host."""
        return self.host.faults

    def job_of(self, job: int) -> JobId | None:
        """The id that the caller of Start was given."""
        outcome = self.outcome_of_start(job)
        return JobId(outcome) if isinstance(outcome, str) else None

    def launched(self, job: int) -> JobId | None:
        """The id that all who watch are told while the job is held."""
        execution = self.execution_of(job)
        return execution.job_id if execution is not None and execution.job_id in self.records.jobs else None

    def start_of(self, job: int) -> tuple[int, Start]:
        """The step that starts a job, and its index."""
        steps = enumerate(self.schedule.steps)
        return next((index, step) for index, step in steps if isinstance(step, Start) and step.job == job)

    def execution_of(self, job: int) -> ScriptedExecution | None:
        """The execution of a job's command: that which was executed, or the last that was to be."""
        made = [each for each in self.host.made if each.command == name_of(job)]
        return next((each for each in made if each.truth.executed is not None), made[-1] if made else None)

    def outcome_of_start(self, job: int) -> Outcome:
        """What a job's Start returned or raised; None before."""
        return self.outcomes.get(self.start_of(job)[0])

    def record_of(self, execution: ScriptedExecution) -> JobRecord | None:
        """The record of an execution's job, where there is one."""
        return self.records.jobs.get(execution.job_id)


def play(schedule: Schedule, folder: Path) -> History:
    """Plays it to its end, with what was open before it open after it and nothing else, or an error that says what."""
    before = descriptors()
    _seed_scheduler(schedule.seed)
    history = trio.run(_play, schedule, folder, clock=trio.testing.MockClock(autojump_threshold=0))
    for execution in history.host.made:
        execution.abandon()
    left = descriptors() - before
    assert not left, f"open descriptors are left: {sorted(left)}"
    return history


def descriptors() -> set[tuple[str, str]]:
    """The open descriptors of this process, and what each is; without that of the folder that lists them."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:
            continue
    return found


def _seed_scheduler(seed: int) -> None:
    """Makes the order in which Trio runs the tasks of one instant a part of the schedule, as its Hypothesis plugin does."""
    scheduler: Any = trio._core._run  # which has no public way
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)


async def _play(schedule: Schedule, folder: Path) -> History:
    with trio.fail_after(LONGEST_SECONDS):
        async with trio.open_nursery() as machine:
            faults = Faults(plan=schedule.faults)
            host = ScriptedHost(folder=folder, nursery=machine, scripts=schedule.scripts, faults=faults)
            threads = Threads(nursery=machine, faults=faults, delays={k: iter(v) for k, v in schedule.delays.items()})
            with installed(threads), _bugs_noted() as bugs:
                history = await _run(schedule, host)
                history.bugs = bugs
                await trio.sleep(LATE_THREADS_SECONDS)
            machine.cancel_scope.cancel()
    return history


async def _run(schedule: Schedule, host: ScriptedHost) -> History:
    records = MemoryRecords()
    outside = trio.CancelScope()
    history: History | None = None
    with outside:
        async with _opened(schedule, host, records, hands_over=schedule.ending.is_followed) as registry:
            history = History(schedule=schedule, host=host, registry=registry, records=records, folder=host.folder)
            if schedule.ending is not Ending.UPGRADE:  # whose last drain finds no job
                _note_drains(registry, history)
            async with trio.open_nursery() as callers:
                player = _Player(history, callers, sees_all_end=schedule.ending is Ending.DRAIN)
                for index, step in enumerate(schedule.steps):
                    callers.start_soon(player.take, index, step)
                await trio.sleep_until(schedule.ends_at)
                await player.end(outside)
            await _let_retries_happen(history)
    assert history is not None
    if schedule.ending.is_followed:
        await _go_on(history, records)
    history.running_at_end = history.registry.running
    return history


def _opened(
    schedule: Schedule, host: ScriptedHost, records: MemoryRecords, *, hands_over: bool
) -> AbstractAsyncContextManager[Registry]:
    return open_registry(
        host, records, grace_seconds=schedule.grace_seconds, bounds=schedule.bounds, hands_over=lambda: hands_over
    )


async def _go_on(history: History, records: MemoryRecords) -> None:
    """Goes on with the jobs that the first registry has left, as do callers whose time comes now, and ends them."""
    async with _opened(history.schedule, history.host, records, hands_over=False) as registry:
        history.registry = registry
        _note_drains(registry, history)
        await registry.recover()
        history.gap = (history.gap[0], history.host.step())
        history.unwatched = (history.unwatched[0], trio.current_time())
        async with trio.open_nursery() as callers:
            player = _Player(history, callers, sees_all_end=True)
            for index, step in enumerate(history.schedule.steps):
                if index not in history.outcomes and not isinstance(step, Start):
                    callers.start_soon(player.take, index, step)
                elif isinstance(step, Start) and step.request_id and isinstance(history.outcomes.get(index), Exception):
                    callers.start_soon(player.repeat, index, step)
            await trio.sleep(history.schedule.rest_seconds)
            await registry.drain()
            callers.cancel_scope.deadline = trio.current_time() + RELEASE_SECONDS
        await _let_retries_happen(history)


def _note_drains(registry: Registry, history: History) -> None:
    drain = registry.drain

    async def noted() -> None:
        history.drains.append(history.host.step())
        await drain()

    registry.drain = noted  # type: ignore[method-assign]  # so that the order of a drain is known exactly


async def _let_retries_happen(history: History) -> None:
    if history.faults.have_met("unlink", "remover thread"):
        await trio.sleep(3 * UNLINK_AGAIN_SECONDS)
    if any(not execution.is_removed for execution in history.host.made):
        await trio.sleep(LEFTOVERS_SECONDS)
    if "remover" in history.schedule.delays:
        await trio.sleep(4 * LATE_THREADS_SECONDS)
    history.met_before_end = len(history.faults.met)


class _bugs_noted(logging.Handler):  # noqa: N801  # used as a context manager
    """Notes what is logged with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.bugs: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Notes one."""
        if record.exc_info and record.exc_info[0] is not None:
            self.bugs.append(f"{record.getMessage()}: {record.exc_info[1]!r}")

    def __enter__(self) -> list[str]:
        logger = logging.getLogger("jobmaster")
        logger.addHandler(self)
        logger.propagate = False
        return self.bugs

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("jobmaster")
        logger.removeHandler(self)
        logger.propagate = True


class _Player:
    """Takes the steps of a schedule."""

    def __init__(self, history: History, callers: trio.Nursery, *, sees_all_end: bool) -> None:
        """`sees_all_end` says that callers are cancelled when all jobs have ended, not before."""
        self._sees_all_end = sees_all_end
        self._history = history
        self._registry = history.registry
        self._callers = callers

    async def take(self, index: int, step: Step) -> None:
        """Takes a step when its time has come, as a caller who may leave."""
        await trio.sleep_until(step.at)
        match step:
            case Start():
                await self._call(index, step.leaves, lambda: self._start(step))
            case Stop():
                await self._call(index, step.leaves, lambda: self._stop(step))
            case Follow():
                await self._call(index, step.leaves, lambda: self._follow(step))
            case Wait():
                await self._call(index, step.leaves, lambda: self._wait(step))
            case Pause():
                await self._call(index, step.leaves, lambda: self._pause(step))
            case Hurry():
                self._registry.hurry()
            case unreachable:
                assert_never(unreachable)

    async def end(self, outside: trio.CancelScope) -> None:
        """Ends the registry, as the schedule says."""
        match self._history.schedule.ending:
            case Ending.DRAIN:
                await self._registry.drain()
                self._callers.cancel_scope.deadline = trio.current_time() + RELEASE_SECONDS
            case Ending.LEAVE:
                self._callers.cancel_scope.cancel()
            case Ending.UPGRADE:
                self._note_gap_at_its_begin()
                await self._registry.hand_over()
                await trio.testing.wait_all_tasks_blocked()  # who was answered has its answer
                self._callers.cancel_scope.cancel()
            case Ending.CANCEL | Ending.HAND_OVER:
                self._note_gap()
                outside.cancel()
            case unreachable:
                assert_never(unreachable)

    def _note_gap(self) -> None:
        self._history.gap = (self._history.host.step(), 0)
        self._history.unwatched = (trio.current_time(), 0.0)

    def _note_gap_at_its_begin(self) -> None:
        """Notes it when the time is over that Starts under way have, in which jobs go on as before."""
        shutdown = self._registry._shutdown
        hand_over = shutdown.hand_over

        def noted() -> None:
            self._note_gap()
            hand_over()

        shutdown.hand_over = noted  # type: ignore[method-assign]  # so that this moment is known exactly

    async def _call(self, index: int, leaves: Leaves, call: Callable[[], Awaitable[Outcome]]) -> None:
        outcomes = self._history.outcomes
        try:
            with trio.CancelScope() as scope:
                if leaves is not None:
                    self._callers.start_soon(_leave, leaves, scope)
                outcomes[index] = await call()
            if scope.cancelled_caught:
                outcomes[index] = Left()
        except (JobmasterError, OSError, RuntimeError) as error:
            outcomes[index] = error
        except BaseException:
            outcomes[index] = Left()
            if self._sees_all_end:
                self._history.hung.add(index)
            raise
        finally:
            self._history.answered[index] = self._history.host.step()

    async def repeat(self, index: int, step: Start) -> None:
        """Takes a Start again that was refused, or whose caller has left."""
        try:
            self._history.repeated[index] = await self._start(step)
        except (JobmasterError, OSError, RuntimeError) as error:
            self._history.repeated[index] = error

    async def _start(self, step: Start) -> JobId:
        run_time, stop = self._history.schedule.run_times[step.job], self._history.schedule.stops[step.job]
        specification = JobSpecification(command=name_of(step.job), run_time=run_time, stop=stop)
        return await self._registry.start(step.caller, specification, step.request_id)

    async def _stop(self, step: Stop) -> JobRecord | None:
        job_id = self._history.job_of(step.job) or self._history.launched(step.job)
        if job_id is None:
            return None
        job = await self._registry.find(step.caller, job_id)
        if isinstance(job.record.state, Held | Running):
            self._history.orders.append((self._history.host.step(), step.job, step.caller.name))
        return await self._registry.stop(step.caller, job_id, force=step.force)

    async def _pause(self, step: Pause) -> JobRecord | None:
        job_id = self._history.job_of(step.job)
        if job_id is None:
            return None
        return await (self._registry.resume if step.goes_on else self._registry.pause)(step.caller, job_id)

    async def _follow(self, step: Follow) -> bytes | None:
        job_id = self._history.job_of(step.job)
        if job_id is None:
            return None
        job = await self._registry.find(step.caller, job_id)
        async with aclosing(job.output.follow(step.offset)) as stretches:
            return b"".join([await bytes_of(stretch) async for stretch in stretches])

    async def _wait(self, step: Wait) -> None:
        job_id = self._history.job_of(step.job)
        if job_id is not None:
            job = await self._registry.find(step.caller, job_id)
            await job.wait_ended()


async def _leave(leaves: float, scope: trio.CancelScope) -> None:
    """Cancels after so many checkpoints (int) or seconds (float): among the tasks of that instant, as a peer's reset."""
    if isinstance(leaves, int):
        for _ in range(leaves):
            await trio.lowlevel.checkpoint()
    else:
        await trio.sleep(leaves)
    scope.cancel()
