"""A launcher for each test; and a host whose jobs follow scripts, on a clock that jumps."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import pytest
import trio
import trio.testing
from trio.abc import Instrument

from jobmaster.identity.policy import Identity
from jobmaster.job.cause import Cause, Signalled, Stopped
from jobmaster.job.identifier import JobId, new_job_id
from jobmaster.job.record import JobRecord, Launched, LimitReport
from jobmaster.job.run_time import RunTime
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Ended, Held
from jobmaster.job.stop_terms import StopTerms
from jobmaster.output.cap import Cap
from jobmaster.output.pump import Pump
from jobmaster.run.bounds import DEFAULT_BOUNDS, Bounds
from jobmaster.run.launcher import attached_launcher, use_launcher
from jobmaster.run.registry import Registry, open_registry
from jobmaster.run.supervisor import Supervisor, Terms
from tests.run.faults import Fault, Faults, Threads, installed
from tests.run.launching import Folder, Host, jobs_folder
from tests.run.records import MemoryRecords
from tests.run.scripted import Script, ScriptedExecution, ScriptedHost

T = TypeVar("T")

GRACE_SECONDS: Final = 5.0
ALWAYS: Final = 10**9
"""Calls in sequence that fail."""
SOON: Final = 0.2
"""Seconds: the kernel is polled, at most 0.05 s late each time."""
KILLED: Final = Signalled(signal.SIGKILL)
SLEEPER: Final = Script()
"""Runs until SIGTERM."""


@dataclass(slots=True, kw_only=True)
class Machine:
    """Makes supervisors and registries over a scripted host.

    Attributes:
        scripts: of the commands by name; a test adds to them.
    """

    host: ScriptedHost
    records: MemoryRecords
    scripts: dict[str, Script]
    nursery: trio.Nursery

    def plan(self, *faults: Fault) -> None:
        """Has calls fail, from now on counted anew."""
        self.host.faults.calls.clear()
        self.host.faults.plan = faults

    async def held(
        self,
        script: Script,
        *,
        grace_seconds: float = GRACE_SECONDS,
        memory_max: int | None = None,
        pump: type[Pump] = Pump,
        run_time: RunTime | None = None,
        stop: StopTerms | None = None,
    ) -> Supervisor:
        """A supervisor of a job that is not executed yet."""
        specification = JobSpecification(command=f"command-{len(self.scripts)}", stop=stop)
        self.scripts[specification.command] = script
        job_id = new_job_id()
        spawned = await self.host.spawn(job_id, "client1", specification)
        limit = LimitReport(name="memory", value=f"memory.max {memory_max}")
        record = JobRecord(
            id=job_id,
            owner="client1",
            command=CommandLine.of(specification),
            state=Held(pid=spawned.execution.pid, started_at=datetime.now(UTC)),
            limits=(limit,) if memory_max is not None else (),
            run_time=run_time,
            stop=stop,
        )
        spawned.pump.__class__ = pump
        terms = Terms(grace_seconds=grace_seconds)
        return Supervisor(record, spawned.execution, spawned.log, spawned.pump, terms, self.records)

    async def running(
        self,
        script: Script,
        *,
        grace_seconds: float = GRACE_SECONDS,
        memory_max: int | None = None,
        pump: type[Pump] = Pump,
        run_time: RunTime | None = None,
        stop: StopTerms | None = None,
    ) -> Supervisor:
        """A supervisor of a job whose command is executed."""
        supervisor = await self.held(
            script, grace_seconds=grace_seconds, memory_max=memory_max, pump=pump, run_time=run_time, stop=stop
        )
        await self.nursery.start(supervisor.run, launched_of(supervisor.record))
        return supervisor

    @asynccontextmanager
    async def registry(
        self,
        *,
        grace_seconds: float = GRACE_SECONDS,
        bounds: Bounds = DEFAULT_BOUNDS,
        hands_over: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[Registry]:
        """A registry for the block."""
        async with open_registry(
            self.host, self.records, grace_seconds=grace_seconds, bounds=bounds, hands_over=hands_over
        ) as registry:
            yield registry

    async def start(
        self,
        registry: Registry,
        caller: Identity,
        script: Script = SLEEPER,
        *,
        cap: Cap | None = None,
        request_id: str = "",
        run_time: RunTime | None = None,
        stop: StopTerms | None = None,
    ) -> JobId:
        """Starts a job with a script."""
        command = f"command-{len(self.scripts)}"
        self.scripts[command] = script
        specification = JobSpecification(
            command=command,
            output_max=0 if cap is None else cap.size,
            ends_when_full=cap is not None and cap.ends_job,
            run_time=run_time,
            stop=stop,
        )
        return await registry.start(caller, specification, request_id)

    def logs(self) -> set[str]:
        """The ids of the jobs whose output is there."""
        return {file.stem for file in self.host.folder.iterdir()}

    def execution(self, job_id: str) -> ScriptedExecution:
        """The execution of a job."""
        return next(each for each in self.host.made if each.job_id == job_id)


def _run_on_mock_clock(function: Callable[[], Awaitable[T]], *, clock: None, instruments: Sequence[Instrument]) -> T:
    assert clock is None
    return trio.run(function, clock=trio.testing.MockClock(autojump_threshold=0), instruments=instruments)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs each test that has a machine on a clock that jumps to the next deadline."""
    for item in items:
        if "machine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.trio(run=_run_on_mock_clock), append=False)  # before that of pytest-trio itself


@pytest.fixture
async def machine(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Machine]:
    """A machine; at its end every descriptor that its jobs needed is closed."""
    scripts: dict[str, Script] = {}
    faults = Faults()
    host = ScriptedHost(folder=tmp_path, nursery=nursery, scripts=scripts, faults=faults)
    records = MemoryRecords()
    nursery.start_soon(_fail_when_nothing_happens)
    with installed(Threads(nursery=nursery, faults=faults, delays={})):
        yield Machine(host=host, records=records, scripts=scripts, nursery=nursery)
    for execution in host.made:
        execution.abandon()
    nursery.cancel_scope.cancel()


@pytest.fixture
def folder() -> Iterator[Folder]:
    """A folder for jobs in the cgroup file system."""
    with jobs_folder() as made:
        yield made


@pytest.fixture
async def host(folder: Folder) -> AsyncIterator[Host]:
    """A launcher that puts its children into `folder`."""
    async with (
        attached_launcher() as sock,
        use_launcher(sock, kill_fd=folder.kill, lock_fd=folder.lock) as launcher,
    ):
        yield Host(launcher=launcher, folder=folder)


async def _fail_when_nothing_happens() -> None:
    """The clock comes there when all that is left waits for ever."""
    await trio.sleep(10**6)
    pytest.fail("something waits that nothing will wake")


def launched_of(record: JobRecord) -> Launched:
    """The first event of a job that is held."""
    return Launched(
        id=record.id,
        owner=record.owner,
        command=record.command,
        pid=record.state.pid,
        start_time=0,
        boot_id="",
        at=record.state.started_at,
        limits=record.limits,
        run_time=record.run_time,
        stop=record.stop,
    )


def cause_of_job(supervisor: Supervisor) -> Cause:
    """Why an ended job ended."""
    state = supervisor.record.state
    assert isinstance(state, Ended), state
    return state.cause


async def end_of(supervisor: Supervisor) -> tuple[Cause, float]:
    """Why a job ends, and how many seconds of the clock from now."""
    before = trio.current_time()
    await supervisor.wait_ended()
    return cause_of_job(supervisor), trio.current_time() - before


def scripted(supervisor: Supervisor) -> ScriptedExecution:
    """What the supervisor runs."""
    assert isinstance(supervisor.execution, ScriptedExecution)
    return supervisor.execution


async def check_end(supervisor: Supervisor, cause: Cause, *, after: float) -> None:
    """The job ends so, that many seconds from now."""
    was, seconds = await end_of(supervisor)
    assert was == cause
    assert seconds == pytest.approx(after, abs=SOON)


def stopped_as(cause: Cause) -> tuple[str, int, int | None, bool]:
    """By whom, by which signal, with which code, whether killed."""
    assert isinstance(cause, Stopped), cause
    return cause.by, cause.signal, cause.exit_code, cause.killed
