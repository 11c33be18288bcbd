"""Random schedules: what jobs do, what callers do and when, and which call fails."""

from __future__ import annotations

import enum
import errno
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from jobmaster.errors import CommandNotRunnable, HostError
from jobmaster.identity.policy import Identity, Role
from jobmaster.job.cause import Exited, Signalled
from jobmaster.job.run_time import RunTime
from jobmaster.job.stop_terms import StopTerms
from jobmaster.run.bounds import Bounds
from jobmaster.run.registry import START_SECONDS
from tests.run.faults import Fault
from tests.run.scripted import NEVER, OnTerm, Script

CLIENT1: Final = Identity(name="client1", role=Role.USER)
CLIENT2: Final = Identity(name="client2", role=Role.USER)
ADMIN: Final = Identity(name="superuser", role=Role.ADMIN)

Leaves = float | int | None
"""When a caller gives up its call: after so many seconds (float), so many checkpoints (int), or never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Starts the job of this number; one that has a request id comes again where it was refused at a hand-over."""

    at: float
    job: int
    caller: Identity
    leaves: Leaves = None
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Stops a job, by the id that its Start has returned or that all who watch are told before, and waits for its end."""

    at: float
    job: int
    caller: Identity
    leaves: Leaves = None
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Reads a job's output from `offset` to its end."""

    at: float
    job: int
    caller: Identity
    offset: int = 0
    leaves: Leaves = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Waits for a job's end."""

    at: float
    job: int
    caller: Identity
    leaves: Leaves = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Pauses a job, or resumes it."""

    at: float
    job: int
    caller: Identity
    leaves: Leaves = None
    goes_on: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hurry:
    """Ends all grace periods."""

    at: float


Step = Start | Stop | Follow | Wait | Pause | Hurry


class Ending(enum.Enum):
    """How the registry ends; where it hands over, another one goes on and drains."""

    DRAIN = enum.auto()
    LEAVE = enum.auto()
    CANCEL = enum.auto()
    HAND_OVER = enum.auto()
    """As a server that breaks: its callers are cancelled with it."""
    UPGRADE = enum.auto()
    """On purpose: its callers are told what becomes of their calls."""

    @property
    def is_followed(self) -> bool:
        """Whether another registry goes on."""
        return self in {Ending.HAND_OVER, Ending.UPGRADE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All that happens, and fails.

    Attributes:
        run_times: how long each job may run.
        stops: how each is stopped.
        delays: seconds before the functions of a purpose begin in their thread.
        ends_at: when the registry begins to end.
    """

    seed: int
    scripts: Mapping[str, Script]
    run_times: tuple[RunTime | None, ...]
    stops: tuple[StopTerms | None, ...]
    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]
    delays: Mapping[str, tuple[float, ...]]
    bounds: Bounds
    grace_seconds: float
    ends_at: float
    ending: Ending
    rest_seconds: float


POINTS: Final[Mapping[str, tuple[int | None, ...]]] = {
    "spawn": (None,),
    "execute": (None, errno.EIO),
    "has_died": (None, errno.EMFILE),
    "is_dying": (None, errno.EMFILE),
    "wait_death": (None, errno.ECHILD),
    "signal_main": (None, errno.EPERM),
    "signal_others": (None, errno.EMFILE),
    "kill": (None, errno.EMFILE),
    "is_populated": (None, errno.EMFILE),
    "oom_kills": (None, errno.EMFILE),
    "limits_met": (None, errno.EMFILE),
    "usage": (None, errno.EMFILE, errno.ENOMEM),
    "lift_limits": (None, errno.EMFILE),
    "remove": (None, errno.EBUSY, errno.EMFILE),
    "close": (None, errno.EIO, errno.EDQUOT),
    "memory_events": (None, errno.EMFILE),
    "unlink": (errno.EROFS, errno.EBUSY, errno.EIO),
    "pump thread": (None,),
    "closer thread": (None,),
    "reader thread": (None,),
    "leaver thread": (None,),
    "remover thread": (None,),
    "pump.splice": (errno.EINVAL, errno.ENOSPC, errno.EIO),
    "pump.pwrite": (errno.ENOSPC, errno.EDQUOT, errno.EIO),
    "pump.read": (errno.EIO, errno.ENOMEM),
    "pump.close": (errno.EIO, errno.EDQUOT),
    "log.preadv": (errno.EAGAIN, errno.EIO),
    "log.pread": (errno.EIO,),
    "log.close": (errno.EIO,),
}
"""Every call that can fail, and how; None is the error of this project that it may raise."""

RARELY_CALLED: Final = frozenset({"unlink", "close", "closer thread", "remover thread", "log.close", "pump.close"})
ALWAYS: Final = 10**9

INSTANTS: Final = (0.0, 0.0, 0.0005, 0.01, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0, 2.0)
"""Times that many things share, so that they happen together."""
WARNING: Final = int(signal.SIGUSR1)
CLIENTS: Final = (CLIENT1, CLIENT1, CLIENT2, ADMIN)


def schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    random = Random(seed)
    jobs = random.choice((1, 1, 2, 3, 6))
    starts = [_start(random, number) for number in range(jobs)]
    others = [_step(random, random.choice(starts)) for _ in range(random.choice((0, 1, 2, 4, 8)))]
    scripts = {name_of(number): _script(random) for number in range(jobs)}
    run_times, scripts = _run_times(seed, scripts)
    stops, scripts = _stops(seed, scripts)
    planned = Schedule(
        seed=seed,
        scripts=scripts,
        run_times=run_times,
        stops=stops,
        steps=(*starts, *others, *_pauses(seed, starts, run_times)),
        faults=_faults(random),
        delays=_delays(random),
        bounds=random.choice((Bounds(), Bounds(), Bounds(running=8, ended=8), Bounds(running=100, ended=4))),
        grace_seconds=random.choice((0.0, 0.3, 1.0, 5.0)),
        ends_at=_time(random) * random.choice((0.1, 1, 3)),
        ending=random.choice((Ending.DRAIN, Ending.LEAVE, Ending.CANCEL, Ending.HAND_OVER)),
        rest_seconds=_time(random),
    )
    return _with_hand_over(Random(~seed), planned)


def _with_hand_over(random: Random, planned: Schedule) -> Schedule:
    """In half of the schedules Starts are under way when the jobs are handed over."""
    steps = tuple(
        replace(step, request_id=f"request-{step.job}") if isinstance(step, Start) and random.random() < 0.4 else step
        for step in planned.steps
    )
    if random.random() < 0.5:
        return replace(planned, steps=steps)
    starts = [step for step in steps if isinstance(step, Start)]
    scripts = {
        name: replace(
            script,
            execute_seconds=random.choice((script.execute_seconds, 0.5, START_SECONDS, 3.0, NEVER)),
            is_executed_unheard=random.random() < 0.5 and _lives_on(script),
            ends_at=max(script.ends_at, 0.01),  # later than a stop that came before its execution is carried out
            dies_before_signal=False,  # of which the next server is not told
            death=Exited(3) if script.death == Signalled(signal.SIGKILL) else script.death,  # nobody's, and so early
        )
        for name, script in planned.scripts.items()
    }
    at = random.choice(starts).at + random.choice((0.0, 0.0, 0.0005, 0.2, 0.5, 1.0))
    ending = random.choice((Ending.HAND_OVER, Ending.UPGRADE, Ending.UPGRADE))
    return replace(planned, steps=steps, scripts=scripts, ends_at=at, ending=ending)


def _lives_on(script: Script) -> bool:
    """Whether a command ends only where it is made to."""
    ends = script.ends_at, script.killed_for_memory_at, script.lost_at
    return script.execute_error is None and all(at == NEVER for at in ends)


def name_of(job: int) -> str:
    """The command of a job."""
    return f"job-{job}"


def _time(random: Random) -> float:
    return random.choice(INSTANTS) if random.random() < 0.7 else random.uniform(0, 2)


def _leaves(random: Random, *, often: float) -> Leaves:
    if random.random() > often:
        return None
    return random.choice((0, 1, 2, 3, 4, 5, 6, 8, 10, 20, 40)) if random.random() < 0.7 else _time(random)


def _start(random: Random, number: int) -> Start:
    return Start(
        at=_time(random) * 0.3,
        job=number,
        caller=random.choice((CLIENT1, CLIENT2)),
        leaves=_leaves(random, often=0.35),
    )


def _step(random: Random, start: Start) -> Step:
    at, caller = start.at + _time(random), random.choice(CLIENTS)
    leaves = _leaves(random, often=0.3)
    match random.choice((Stop, Stop, Follow, Follow, Wait, Hurry)):
        case kind if kind is Follow:
            offset = random.choice((0, 0, 1, 5000, 10**9))
            return Follow(at=at, job=start.job, caller=caller, offset=offset, leaves=leaves)
        case kind if kind is Hurry:
            return Hurry(at=at)
        case kind if kind is Wait:
            return Wait(at=at, job=start.job, caller=caller, leaves=leaves)
        case _:
            return Stop(at=at, job=start.job, caller=caller, leaves=leaves, force=random.random() < 0.2)


def _script(random: Random) -> Script:
    script = Script(
        spawn_seconds=random.choice((0.0, 0.0, 0.001, 0.2)),
        execute_checkpoints=random.choice((0, 0, 1, 2, 3, 8)),
        execute_seconds=random.choice((0.0, 0.0, 0.001, 0.2)),
        ends_at=random.choice((NEVER, NEVER, _time(random), _time(random))),
        death=random.choice((Exited(0), Exited(3), Signalled(signal.SIGKILL), Signalled(signal.SIGSEGV))),
        on_term=_on_term(random),
        others_end_at=random.choice((0.0, 0.0, 0.0, _time(random), NEVER)),
        others_ignore_term=random.random() < 0.3,
        death_seconds=random.choice((0.0, 0.0, 0.0, 0.05, 3.0)),
        busy_seconds=random.choice((0.0, 0.0, 0.0, 0.3, 2.0)),
        writes=_writes(random),
    )
    return _with_oddity(random, script)


def _run_times(seed: int, scripts: Mapping[str, Script]) -> tuple[tuple[RunTime | None, ...], dict[str, Script]]:
    """How long each job may run, and what it does about a warning; from numbers of its own."""
    random = Random(f"{seed} run time")
    run_times: list[RunTime | None] = []
    given: dict[str, Script] = {}
    for name, script in scripts.items():
        given[name] = script
        if random.random() < 0.7:
            run_times.append(None)
            continue
        max_ms = max(2, round(1000 * _time(random)))
        before = random.choice((0, 0, max_ms // 2, max_ms - 1))
        run_times.append(RunTime(max_ms=max_ms, warn_before_ms=before, warn_signal=WARNING if before else 0))
        died = OnTerm(death=Signalled(WARNING), after=random.choice((0.0, 0.001, 0.1)))
        given[name] = replace(script, on_warning=random.choice((None, died)))
    return tuple(run_times), given


def _pauses(seed: int, starts: Sequence[Start], run_times: Sequence[RunTime | None]) -> list[Pause]:
    """Of each job in some of the schedules, in most of those with a run time, and when it is over; from numbers of their own."""
    random = Random(f"{seed} pauses")
    if random.random() > (0.2 if run_times.count(None) == len(run_times) else 0.8):
        return []
    ends = {
        start.job: start.at + run_time.seconds for start, run_time in zip(starts, run_times, strict=True) if run_time
    }
    return [
        Pause(
            at=random.choice(
                (start.at + _time(random), ends.get(start.job, start.at) * random.choice((0.9, 1.0, 1.0)))
            ),
            job=start.job,
            caller=start.caller,
            leaves=_leaves(random, often=0.2),
            goes_on=random.random() < 0.5,
        )
        for start in starts
        for _ in range(random.choice((1, 2, 4, 8)))
    ]


def _stops(seed: int, scripts: Mapping[str, Script]) -> tuple[tuple[StopTerms | None, ...], dict[str, Script]]:
    """How each job is stopped; from numbers of their own."""
    random = Random(f"{seed} stop")
    choices = (None, None, None, StopTerms(signal=2), StopTerms(grace_ms=400), StopTerms(signal=2, grace_ms=20_000))
    stops = tuple(random.choice(choices) for _ in scripts)
    given = dict(scripts)
    for stop, (name, script) in zip(stops, scripts.items(), strict=True):
        if stop is not None and script.on_term is not None and isinstance(script.on_term.death, Signalled):
            given[name] = replace(script, on_term=replace(script.on_term, death=Signalled(stop.signal)))
    return stops, given


def _on_term(random: Random) -> OnTerm | None:
    after = random.choice((0.001, 0.1, 0.3, 1.0))
    return random.choice(
        (
            None,
            OnTerm(),
            OnTerm(after=after),
            OnTerm(death=Exited(0), after=after),
            OnTerm(death=Exited(7), after=after),
        )
    )


def _writes(random: Random) -> tuple[tuple[float, int], ...]:
    sizes = (1, 1, 100, 5000, 100_000, 300_005, 2_000_000)
    moments = sorted(_time(random) for _ in range(random.choice((0, 1, 1, 3, 6))))
    return tuple((moment, random.choice(sizes if random.random() < 0.5 else sizes[:4])) for moment in moments)


def _with_oddity(random: Random, script: Script) -> Script:
    """Most jobs are ordinary; a few meet one of the rarer fates."""
    oddities = (
        replace(script, execute_seconds=NEVER),
        replace(script, execute_error=random.choice((CommandNotRunnable("'x' not found"), HostError("no memory")))),
        replace(script, is_stopped=True),
        replace(script, dies_before_signal=True),
        replace(script, children_killed_for_memory=(_time(random), _time(random))),
        replace(script, children_killed_for_memory=(_time(random),), ends_at=_time(random) + 0.5),
        replace(script, killed_for_memory_at=_time(random)),
        replace(
            script,
            killed_for_memory_at=_time(random),
            children_killed_for_memory=(_time(random),),
            death_seconds=3.0,
        ),
        replace(script, death_seconds=random.choice((30.0, NEVER))),
        replace(script, status_is_withheld=True),
        replace(script, lost_at=_time(random)),
        replace(script, signalling_hangs=True),
        replace(script, bug=RuntimeError("a bug, scripted")),
    )
    return random.choice(oddities) if random.random() < 0.35 else script


def _faults(random: Random) -> tuple[Fault, ...]:
    return tuple(_fault(random) for _ in range(random.choice((0, 0, 1, 1, 1, 2))))


def _fault(random: Random) -> Fault:
    point = random.choice((*POINTS, "unlink", "unlink", "pump thread"))
    return Fault(
        point=point,
        call=random.choice((1, 1, 1, 2, 3) if point in RARELY_CALLED else (1, 1, 1, 2, 2, 3, 4, 6, 9)),
        times=random.choice((1, 1, 1, 2, 3, ALWAYS if point == "pump thread" else 1)),
        number=random.choice(POINTS[point]),
    )


def _delays(random: Random) -> Mapping[str, tuple[float, ...]]:
    if random.random() < 0.6:
        return {}
    purpose = random.choice(("pump", "closer", "reader", "leaver", "remover"))
    longest = 1.5 if purpose == "closer" else 5.0
    return {purpose: tuple(random.choice((0.0, 0.001, 0.5, random.uniform(0, longest))) for _ in range(4))}
