"""Crash points: places of the server's program at which a test has it die, named after what happens there.

A point is armed by a file, and fires once: the first passage of any server takes the file and carries out what it says.
"""

from __future__ import annotations

import enum
import functools
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "JOBMASTER_TEST_POINTS"
"""The environment variable that names the folder of armed points."""


class When(enum.Enum):
    """On which side of what happens."""

    BEFORE = "before"
    AFTER = "after"


class Action(enum.Enum):
    """What a point does when it fires."""

    KILL_SERVER = "kill-server"
    KILL_LAUNCHER = "kill-launcher"
    KILL_BOTH = "kill-both"
    RAISE = "raise"
    """An exception in the root nursery."""


class Cause(enum.Enum):
    """What makes a server pass a point."""

    LOAD = "load"
    """Jobs that are started, write, are stopped and end."""
    UPGRADE = "upgrade"
    """A server that is told to hand over, with jobs."""
    SUCCESSION = "succession"
    """A server that follows one that died, with jobs."""


@dataclass(frozen=True, slots=True)
class Point:
    """One side of something that happens."""

    name: str
    when: When
    cause: Cause = Cause.LOAD

    def __str__(self) -> str:
        return f"{self.when.value}-{self.name}"


def _sides(*names: str, cause: Cause = Cause.LOAD) -> tuple[Point, ...]:
    return tuple(Point(name, when, cause) for name in names for when in When)


POINTS: Final = (
    *_sides("cgroup", "log", "held", "launched", "commit", "go", "executed", "answer"),
    *_sides("output", "order", "signal", "kill", "drained", "ended", "removal", "acknowledged"),
    *_sides("handed-over-job", "handed-over", cause=Cause.UPGRADE),
    *_sides("adopted-job", "recovered", "ready", cause=Cause.SUCCESSION),
)


class Armed:
    """The armed points of a service, as files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def arm(self, point: Point, action: Action) -> None:
        """Has the next server that passes the point carry out the action."""
        (self._folder / f"{point}.fired").unlink(missing_ok=True)
        _write(self._folder / str(point), action.value)

    def fired(self, point: Point) -> int | None:
        """The pid of the server at which it fired, since it was armed last; None where it has not."""
        try:
            return int((self._folder / f"{point}.fired").read_text())
        except FileNotFoundError:
            return None

    def take(self, point: Point) -> Action | None:
        """The action that is to be carried out now, by this caller alone; None where the point is not armed."""
        path = self._folder / str(point)
        try:
            action = Action(path.read_text())
            path.unlink()
        except FileNotFoundError:
            return None
        _write(self._folder / f"{point}.fired", str(os.getpid()))
        return action


def _write(path: Path, text: str) -> None:
    making = path.with_name(f".{path.name}")
    making.write_text(text)
    making.rename(path)


class Passing:
    """What a server's program calls at its points.

    Args:
        armed: which points are.
        raise_error: has the root nursery raise; called in any thread.
    """

    def __init__(self, armed: Armed, raise_error: Callable[[], None]) -> None:
        self._armed = armed
        self._raise_error = raise_error

    def passed(self, point: Point) -> None:
        """Carries out what the point is armed with."""
        match self._armed.take(point):
            case Action.RAISE:
                self._raise_error()
            case Action.KILL_SERVER:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.KILL_LAUNCHER:
                _kill_launcher()
            case Action.KILL_BOTH:
                _kill_launcher()
                os.kill(os.getpid(), signal.SIGKILL)
            case None:
                pass

    def wrap(self, name: str, owner: type, attribute: str, *, only: Callable[..., bool] = lambda *_: True) -> None:
        """Puts the two points called `name` around a method.

        Args:
            name: of the points.
            owner: the class.
            attribute: the name of the method, which is a coroutine function or not.
            only: which calls count, by their arguments.
        """
        original = getattr(owner, attribute)
        before, after = Point(name, When.BEFORE), Point(name, When.AFTER)

        @functools.wraps(original)
        def sync(*args: Any, **options: Any) -> Any:
            if not only(*args):
                return original(*args, **options)
            self.passed(before)
            result = original(*args, **options)
            self.passed(after)
            return result

        @functools.wraps(original)
        async def asynchronous(*args: Any, **options: Any) -> Any:
            if not only(*args):
                return await original(*args, **options)
            self.passed(before)
            result = await original(*args, **options)
            self.passed(after)
            return result

        is_async = original.__code__.co_flags & 0x80  # a coroutine function (inspect.CO_COROUTINE)
        setattr(owner, attribute, asynchronous if is_async else sync)


def _kill_launcher() -> None:
    parent = os.getppid()
    if b"launcher" in Path(f"/proc/{parent}/cmdline").read_bytes():  # else it is dead already
        with suppress(ProcessLookupError):
            os.kill(parent, signal.SIGKILL)
