"""Errors at the k-th call of a named function, and worker threads that are tasks on the clock.

Nothing here takes real time or depends on the kernel's scheduling, so that a schedule with its errors can be repeated.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import outcome
import pytest
import trio

from jobmaster import threads as threads_module
from jobmaster.errors import HostError
from jobmaster.output import closing, dropping, followed_file, following, log, moving, pump, transfer
from jobmaster.run import pruning, recovery, removal, retention
from jobmaster.threads import NoThread

T = TypeVar("T")

OS_CALLS: Final = {
    "pump": frozenset({"splice", "pwrite", "read", "close"}),
    "log": frozenset({"preadv", "pread", "close"}),
}
"""Calls of os that can fail, of the modules whose `os` is replaced."""
OF_PURPOSE: Final = {
    id(moving.PUMPS): "pump",
    id(closing.CLOSERS): "closer",
    id(dropping.PUNCHERS): "puncher",
    id(followed_file.READERS): "reader",
    id(followed_file.CLOSERS): "leaver",
    id(removal.REMOVERS): "remover",
    id(recovery.LOOKERS): "looker",
    id(pruning.LOOKERS): "measurer",
    id(pruning.PRUNERS): "pruner",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error at one call.

    Attributes:
        point: the call's name, for example "kill", "pump.splice" or "pump thread".
        call: which one of its calls fails, from 1; of all executions together.
        times: how many calls in sequence fail.
        number: the errno; None for the error of this project that the call may raise.
    """

    point: str
    call: int
    times: int = 1
    number: int | None = None

    def error(self) -> Exception:
        """What the call raises."""
        if self.point.endswith(" thread"):
            return NoThread("the server's host has no thread left; try again later")
        if self.number is None:
            return HostError(f"scripted failure of {self.point}")
        return OSError(self.number, os.strerror(self.number))


@dataclass(slots=True, kw_only=True)
class Faults:
    """Raises what is planned; `met` says which points failed, and for whom."""

    plan: tuple[Fault, ...] = ()
    calls: Counter[str] = field(default_factory=Counter)
    met: list[tuple[str, object]] = field(default_factory=list)

    def meet(self, point: str, whose: object = None) -> None:
        """To be called where `point` begins."""
        self.calls[point] += 1
        for fault in self.plan:
            if fault.point == point and 0 <= self.calls[point] - fault.call < fault.times:
                self.met.append((point, whose))
                raise fault.error()

    def have_met(self, *points: str, whose: object = None) -> bool:
        """Whether one of these points has failed, for that one or (None) for anybody."""
        return any(point in points and (whose is None or whose == other) for point, other in self.met)


class FaultyOs:
    """The os module, with calls that can fail."""

    def __init__(self, module: str, faults: Faults) -> None:
        self._module = module
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._failing(name, real) if name in OS_CALLS[self._module] else real

    def _failing(self, name: str, real: Callable[..., T]) -> Callable[..., T]:
        def call(*args: Any, **keywords: Any) -> T:
            if name == "close":  # close(2): an error is told after the descriptor is gone
                result = real(*args, **keywords)
                self._faults.meet(f"{self._module}.{name}")
                return result
            self._faults.meet(f"{self._module}.{name}")
            return real(*args, **keywords)

        return call


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """Worker threads as tasks: a function takes no time, but may begin late.

    Attributes:
        nursery: what the tasks of late threads live in; it outlives the engine, as threads do.
        delays: seconds before the functions of a purpose begin, one after the other; then 0.
    """

    nursery: trio.Nursery
    faults: Faults
    delays: Mapping[str, Iterator[float]]

    async def run(
        self, limiter: trio.CapacityLimiter, function: Callable[..., T], *args: Any, abandon: bool = False
    ) -> T:
        """Stands in for `jobmaster.threads.run_in_thread`."""
        purpose = OF_PURPOSE[id(limiter)]
        await trio.lowlevel.checkpoint()
        self.faults.meet(f"{purpose} thread")
        call = self._call(function, args)
        delay = next(self.delays.get(purpose, iter(())), 0.0)
        if delay == 0:
            result = outcome.capture(call)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return result.unwrap()
        return await self._run_late(delay, call, abandon=abandon)

    def _call(self, function: Callable[..., T], args: tuple[Any, ...]) -> Callable[[], T]:
        def call() -> T:
            if function.__name__ == "unlink_output":
                self.faults.meet("unlink")
            return function(*args)

        return call

    async def _run_late(self, delay: float, call: Callable[[], T], *, abandon: bool) -> T:
        done = trio.Event()
        results: list[outcome.Outcome[T]] = []

        async def thread() -> None:
            await trio.sleep(delay)
            results.append(outcome.capture(call))
            done.set()

        self.nursery.start_soon(thread)
        with trio.CancelScope(shield=not abandon):
            await done.wait()
        return results[0].unwrap()


@contextmanager
def installed(threads: Threads) -> Iterator[None]:
    """In this block the engine uses these threads, and the os module with their faults."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for module in (threads_module, pump, followed_file, following, removal, recovery, retention, pruning):
            patch.setattr(module, "run_in_thread", threads.run)
        for module in (pump, closing, transfer, log):
            patch.setattr(module, "os", FaultyOs("pump", threads.faults))
        patch.setattr(followed_file, "os", FaultyOs("log", threads.faults))
        yield
