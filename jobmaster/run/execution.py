"""What a supervisor needs of the thing that runs, and the registry of what makes such things: protocols.

The execution of a production server is a process in a cgroup (`jobmaster.run.local`); that of a test is a script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from jobmaster.job.cause import Death, StopOrder
from jobmaster.job.identifier import JobId
from jobmaster.job.memory import LimitsMet
from jobmaster.job.record import JobRecord, LimitReport
from jobmaster.job.specification import JobSpecification
from jobmaster.job.usage import Sample, Usage
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import Pump
from jobmaster.run.stdin import Stdin


class Execution(Protocol):
    """A command that is held before it is executed, then runs, then is gone.

    Nothing here blocks. An error of the host is a `HostError` or an `OSError`; a supervisor goes on after either.
    """

    @property
    def pid(self) -> int:
        """The main process."""

    def age(self) -> float:
        """Seconds since the main process was started, those without a server and of a suspended host included; never too many.

        Of one that has died, until then, where that is known.
        """

    async def execute(self) -> None:
        """Gives leave to execute the command, and returns when the kernel has executed it.

        Raises:
            JobError, RequestError: it cannot be executed; says why, for the client.
            ExecutionUnknown: nobody will know whether it was executed.
            HostError: the host failed.
        """

    def was_executed(self) -> bool:
        """Of one that has died, whether its command was executed, or may have been."""

    def has_died(self) -> bool:
        """Whether the main process has died."""

    def is_dying(self) -> bool:
        """Whether the main process has died or is bound to, by a SIGKILL that it has not yet acted upon."""

    async def wait_death(self) -> Death:
        """Waits until the main process has died; may be called again.

        Raises:
            HostError: how it died cannot be known; says why.
        """

    def died_at(self) -> datetime | None:
        """When the main process died, where that is known: an earlier server may not have seen it, or none."""

    def note_order(self, order: StopOrder, *, is_early: bool = False) -> None:
        """Leaves word of a stop order with what outlives this server, before its signal is sent.

        Its signal follows at once; or, where the order `is_early`, when the command is executed.
        """

    def note_kill(self, order: StopOrder) -> None:
        """Leaves word that the grace period of that order is over, before SIGKILL is sent."""

    def note_given_up(self) -> None:
        """Leaves word that nobody was told of the job: whoever goes on with it ends and forgets it."""

    def signal_main(self, number: int) -> bool:
        """Sends a signal to the main process; whether it lived: one that has died is left alone."""

    async def signal_others(self, number: int, *, is_stop: bool = False) -> None:
        """Sends a signal to every process but the main one; that of a stop waits for none that clients have sent."""

    def freeze(self, is_frozen: bool) -> None:
        """Keeps every process from going on, or lets them go on; they can be killed meanwhile. Idempotent."""

    def has_frozen(self) -> bool:
        """Whether all have come to a stop, of those that `freeze` keeps from going on."""

    def kill(self) -> None:
        """Sends SIGKILL to every process, those that are being forked included."""

    def free_stuck(self, times: int) -> None:
        """Has what outlives SIGKILL released, where that can be: this was asked so many times, this one included."""

    def is_populated(self) -> bool:
        """Whether any process is left."""

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for memory, until now."""

    def keep_oom_kills(self, count: int) -> None:
        """Has a server that adopts it know that the main process has outlived so many of these; where that can be kept."""

    def kept_oom_kills(self) -> int:
        """The count that was kept last; 0 where none was."""

    def limits_met(self, *, at_once: bool = False) -> LimitsMet:
        """How often memory limits that hold for it were met, until now, or as good as now where that is not asked for."""

    def limits_met_at_first(self) -> LimitsMet | None:
        """As it was made; None for one that an earlier server made."""

    async def usage(self) -> Usage | None:
        """What its processes have used until now; None where nothing tells it. Asked when the last one is gone."""

    async def sample(self) -> Sample | None:
        """As `usage`, of one that runs, with what holds now alone.

        Raises:
            HostError, OSError: it cannot be read now.
        """

    async def lift_limits(self) -> None:
        """Lets what is left of it run and write freely, so that killed processes can die and what it wrote comes to the disk.

        It is to be lifted before it is removed. May be called again, and cancelled.
        """

    def remove(self) -> bool:
        """Tries once to remove what held the processes; whether it is gone."""

    async def close(self) -> None:
        """Closes every descriptor. Idempotent."""

    def leave(self) -> None:
        """Closes every descriptor and leaves the processes as they are, to another server."""


def age_of(execution: Execution) -> int:
    """The age of its main process in microseconds, as events have it."""
    return int(execution.age() * 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """An execution with its output.

    Attributes:
        stdin: its input; None where that is /dev/null.
        limits: of a new one, those that were set, enforced or not.
        start_time: of the main process, in clock ticks since boot (proc_pid_stat(5), field 22).
        order: of one that an earlier server made, the stop order that it left word of.
        is_killed: it left word, too, that the grace period was over.
        is_early: the order was given before the command was executed, and may not have been carried out.
        is_given_up: it left word that nobody was told of the job.
        user: as whom it runs: a name, or a number that has none.
    """

    execution: Execution
    log: OutputLog
    pump: Pump
    stdin: Stdin | None = None
    limits: tuple[LimitReport, ...] = ()
    start_time: int = 0
    order: StopOrder | None = None
    is_killed: bool = False
    is_early: bool = False
    is_given_up: bool = False
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEnd:
    """What is known of a job's end besides its record.

    Attributes:
        death: of its main process; None: its command was never executed.
        order: the stop order that was noted before it died, if one was.
        left_in_pipe: bytes of its output that nobody has taken, and nobody will.
        died_at: as of `Execution`.
        is_given_up: as of `Spawned`; its main process may live.
    """

    death: Death | None
    order: StopOrder | None = None
    left_in_pipe: int = 0
    died_at: datetime | None = None
    is_given_up: bool = False


class ExecutionHost(Protocol):
    """Makes executions."""

    @property
    def output_folder(self) -> Path:
        """Where all outputs are kept."""

    def output_path(self, job_id: JobId) -> Path:
        """Where the output of a job is kept, whether it is there or not."""

    async def spawn(self, job_id: JobId, owner: str, specification: JobSpecification) -> Spawned:
        """A held execution of a command. A caller that is cancelled leaves nothing.

        Raises:
            JobError, RequestError, HostError: it cannot be made; nothing is left.
        """

    async def adopt(self, record: JobRecord) -> Spawned | None:
        """The execution of a job that an earlier server started; None where no process of it is there to be adopted.

        Raises:
            JobError, HostError: its output or its cgroup cannot be used; its processes are killed.
        """

    async def known_end(self, job_id: JobId) -> KnownEnd | None:
        """How the main process of a job that cannot be adopted has died already, where that is known.

        To be asked before `end_others`, which kills it.
        """

    def outlived_oom_kills(self, record: JobRecord) -> int:
        """What `Execution.keep_oom_kills` has kept of a job that is not adopted; 0 where nothing is. Before `end_others`, too."""

    async def usages(self, records: Sequence[JobRecord]) -> Mapping[JobId, Usage]:
        """Kills jobs that are not adopted, and tells what they have used, as far as it can be told; bounded. Before `end_others`.

        What is still to be learned of them (`known_end`) is asked for before.
        """

    async def end_others(self) -> Sequence[JobId]:
        """Ends and removes what earlier servers left and nobody has adopted. Bounded; what stays is logged.

        Returns those of the jobs whose command ran.
        """

    async def empty_outputs(self) -> Sequence[JobId]:
        """The jobs whose file of output is there and empty: a server that died before it recorded a job leaves one."""

    async def find_left_folders(self, is_live: Callable[[JobId], bool]) -> None:
        """Has the own folders of earlier servers' jobs removed, but for those that are live: to be called after `end_others`."""

    async def keep_removing_folders(self) -> None:
        """Removes the own folders of jobs that have ended, until cancelled; what cannot be removed is logged."""

    async def remove_last_folders(self) -> None:
        """Tries once more to remove them, at the server's end. Bounded."""

    def memory_events(self, owner: str | None) -> bytes | None:
        """Counters of OOM kills of all jobs, or of those of one owner: when they change, so has a job's.

        Raises:
            HostError, OSError: they cannot be read.
        """
