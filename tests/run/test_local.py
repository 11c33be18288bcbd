"""What the host tells of its jobs, from a folder in place of cgroupfs, and a job where the cgroup fails."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

import pytest
import trio
import trio.testing

from jobmaster.client import RpcFailedError
from jobmaster.errors import CgroupError, CommandNotRunnableNow, ExecutionUnknown, InvalidRequest, KilledBeforeExecution
from jobmaster.grpc.purerpc_adapter import StatusCode
from jobmaster.grpc.status_details import reason_in
from jobmaster.host.account import Account, look_up, own_account
from jobmaster.host.cgroup.opened import OpenedCgroup
from jobmaster.host.cgroup.statistics import MemoryEvents
from jobmaster.host.cgroup.tree import CgroupTree, JobCgroup, KernelFolders
from jobmaster.job.cause import Signalled, StopOrder
from jobmaster.job.identifier import new_job_id
from jobmaster.job.memory import LimitsMet
from jobmaster.job.specification import SMALLEST_OUTPUT, JobSpecification
from jobmaster.job.usage import Usage
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.output.closing import CLOSERS
from jobmaster.run import launcher, local
from jobmaster.run.accounts import AccountPolicy
from jobmaster.run.child import Child, ExecOutcome, Executed, LauncherLost, NeverExecuted, Order
from jobmaster.run.launcher import Launcher
from jobmaster.run.local import CLEARING_SECONDS, LocalExecution, LocalHost, LocalTerms, _order, _stop_order
from jobmaster.run.stdin import Stdin, open_input_pipe, open_queue
from tests.harness import Server, run
from tests.run.launching import DEADLINE, Host, parent_of
from tests.run.policies import NO_POLICY

AT: Final = datetime(2026, 1, 2, tzinfo=UTC)


def terms_on(root: Path, *, account: Account | None = None, drops_privileges: bool = False) -> LocalTerms:
    """Terms of jobs under this folder."""
    return LocalTerms(
        tree=CgroupTree(root=root),
        limits=NO_POLICY,
        output_folder=root,
        accounts=AccountPolicy(common=account or own_account()),
        drops_privileges=drops_privileges,
        open_files=1024,
    )


def host_on(root: Path, sock: socket.socket) -> LocalHost:
    """A host whose jobs are under this folder, and that starts none."""
    return LocalHost(terms_on(root), Launcher(sock))


@pytest.mark.parametrize(
    ("name", "drops", "becomes"),
    [
        ("nobody", True, (65534, False)),
        ("root", True, (0, True)),
        ("nobody", False, None),
    ],
)
def test_whom_a_job_becomes(tmp_path: Path, name: str, *, drops: bool, becomes: tuple[int, bool] | None) -> None:
    """A server that is root turns its jobs into the account, with capabilities only for root by name; another can't."""
    terms = terms_on(tmp_path, drops_privileges=drops)
    launch = terms.launch(new_job_id(), "client1", JobSpecification(command="true", args=("-x",)), look_up(name))
    account = launch.account
    assert (None if account is None else (account.uid, account.keeps_capabilities)) == becomes
    assert (launch.argv, launch.working_folder, launch.open_files) == (("true", "-x"), "/", 1024)


class NeverExecutedChild:
    """A child that dies before it executes its command."""

    id = "job"
    pid = 1

    def go(self) -> None:
        """As `Child.go`."""

    async def wait_executed(self) -> NeverExecuted:
        """As `Child.wait_executed`."""
        return NeverExecuted()


class ToldChild:
    """A child of which the launcher tells something, or is lost before."""

    id = "job"
    pid = 1

    def __init__(self, outcome: ExecOutcome | None) -> None:
        self._told = outcome
        self.outcome: ExecOutcome | None = None

    def go(self) -> None:
        """As `Child.go`."""

    async def wait_executed(self) -> ExecOutcome:
        """As `Child.wait_executed`."""
        if self._told is None:
            raise LauncherLost("the launcher has died")
        self.outcome = self._told
        return self._told


@pytest.mark.parametrize(
    ("outcome", "error", "was_executed"),
    [(Executed(), None, True), (NeverExecuted(), KilledBeforeExecution, False), (None, ExecutionUnknown, True)],
)
async def test_whether_a_command_was_executed(
    outcome: ExecOutcome | None, error: type[Exception] | None, was_executed: bool
) -> None:
    """As the launcher has told; where it tells nothing, the command may have been executed once the go byte was sent."""
    child, cgroup = cast(Child, ToldChild(outcome)), cast(OpenedCgroup, CountingCgroup(0))
    execution = LocalExecution(cast("Launcher", None), child, cgroup, "true", "nobody")
    assert not execution.was_executed()
    with nullcontext() if error is None else pytest.raises(error):
        await execution.execute()
    assert execution.was_executed() == was_executed


class CountingCgroup:
    """A cgroup with a count of OOM kills."""

    def __init__(self, kills: int) -> None:
        self._kills = kills

    path = Path("/sys/fs/cgroup")

    def memory_events(self) -> MemoryEvents:
        """As `OpenedCgroup.memory_events`."""
        return MemoryEvents(oom=self._kills, oom_kill=self._kills)


@pytest.mark.parametrize("has_counted", [True, False])
async def test_what_a_cgroup_that_was_made_anew_counts(has_counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not what the job has used: nobody knows that."""

    async def usage_of(_: Path) -> Usage:
        await trio.lowlevel.checkpoint()
        return Usage(pids_peak=0)

    monkeypatch.setattr(local, "usage_of", usage_of)
    child, cgroup = cast(Child, NeverExecutedChild()), cast(OpenedCgroup, CountingCgroup(0))
    execution = LocalExecution(cast("Launcher", None), child, cgroup, "true", "nobody", has_counted=has_counted)
    assert await execution.usage() == (Usage(pids_peak=0) if has_counted else None)


async def test_a_stop_waits_for_no_signals_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of those are under way, the processes of a job that is stopped get their signal."""
    for name in ("SIGNALLERS", "STOP_SIGNALLERS"):
        monkeypatch.setattr(local, name, trio.CapacityLimiter(1))
    sent: list[int] = []

    class SignalledCgroup(CountingCgroup):
        """A cgroup that notes its signals."""

        def signal(self, signum: int, but: int) -> int:  # noqa: ARG002  # as `OpenedCgroup.signal`
            """As `OpenedCgroup.signal`."""
            sent.append(signum)
            return 1

    child, cgroup = cast(Child, NeverExecutedChild()), cast(OpenedCgroup, SignalledCgroup(0))
    execution = LocalExecution(cast("Launcher", None), child, cgroup, "true", "nobody")
    async with local.SIGNALLERS, trio.open_nursery() as nursery:
        nursery.start_soon(execution.signal_others, signal.SIGUSR1)
        with trio.fail_after(DEADLINE):
            await execution.signal_others(signal.SIGTERM, is_stop=True)
        assert sent == [signal.SIGTERM]
        nursery.cancel_scope.cancel()


def test_limits_that_were_met() -> None:
    """The job's own count is its cgroup's, and the others those above, as new as they are asked for."""
    child, cgroup = cast(Child, NeverExecutedChild()), cast(OpenedCgroup, CountingCgroup(2))

    def counts_above(*, at_once: bool = False) -> tuple[int, int]:
        return (3, 4) if at_once else (1, 1)

    before = LimitsMet(job=0, client=1, jobs=1)
    execution = LocalExecution(
        cast("Launcher", None),
        child,
        cgroup,
        "true",
        "nobody",
        counts_above=counts_above,
        limits_met_at_first=before,
    )
    assert execution.limits_met() == LimitsMet(job=2, client=1, jobs=1)
    assert execution.limits_met(at_once=True) == LimitsMet(job=2, client=3, jobs=4)
    assert execution.limits_met_at_first() == before


@pytest.mark.parametrize(("kills", "error"), [(1, CommandNotRunnableNow), (0, KilledBeforeExecution)])
async def test_killed_for_memory_before_it_was_executed(kills: int, error: type[Exception]) -> None:
    """The caller is told of a memory limit that is too small; any other end before the execution may pass."""
    child, cgroup = cast(Child, NeverExecutedChild()), cast(OpenedCgroup, CountingCgroup(kills))
    with pytest.raises(error):
        await LocalExecution(cast("Launcher", None), child, cgroup, "true", "nobody").execute()


def test_counters_of_the_next_folder(tmp_path: Path) -> None:
    """The counters of a client's next folder differ from its last one's though their numbers are the same."""
    folder = tmp_path / "jobs" / "client1"
    seen = []
    with socket.socket() as sock:
        host = host_on(tmp_path, sock)
        for number in range(2):
            folder.mkdir(parents=True)
            (folder / "memory.events").write_text("oom 1\noom_kill 1\n")
            seen.append(host.memory_events("client1"))
            assert host.memory_events("client1") == seen[-1]
            folder.rename(tmp_path / f"before{number}")  # and not removed: its number is not given to the next one
        assert host.memory_events("client1") is None
    assert seen[0] != seen[1]


def kill_held_jobs(monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """Kills so many jobs between fork and exec, as an administrator may, or the kernel for want of memory."""
    go, left = Child.go, iter(range(times))

    def killed(child: Child) -> None:
        if next(left, None) is not None:
            os.kill(child.pid, signal.SIGKILL)
        go(child)

    monkeypatch.setattr(Child, "go", killed)


async def test_jobs_that_are_killed_before_they_are_executed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks again, and the job runs once."""
    kill_held_jobs(monkeypatch, times=2)
    async with server.connect() as jobs:
        with trio.fail_after(DEADLINE):
            _record, output = await run(jobs, "echo", "ran")
    assert output == b"ran\n"


async def test_whoever_kills_all_jobs_before_they_are_executed(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller of Start is told what happened when its patience is over, and the operator each time."""
    kill_held_jobs(monkeypatch, times=1_000)
    async with server.connect(patience=0.5) as jobs:
        with trio.fail_after(DEADLINE), pytest.raises(RpcFailedError, match="nothing of it has run") as refused:
            await jobs.start("echo", "ran")
    assert refused.value.status.status_code is StatusCode.UNAVAILABLE
    assert reason_in(refused.value.status) == "KILLED_BEFORE_EXECUTION"
    assert 2 <= caplog.text.count("was killed before it executed its command") <= 20


async def test_a_launcher_that_is_stopped(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller of Start is told to try again, and the operator why; when the launcher goes on, nothing of that Start is left."""
    async with server.connect() as jobs:
        lasting = await jobs.start("sleep", "1000")
        monkeypatch.setattr(local, "LAUNCH_SECONDS", 0.01)
        monkeypatch.setattr(launcher, "WITHDRAW_SECONDS", 0.01)
        stopped = parent_of((await jobs.status(lasting)).pid)
        os.kill(stopped, signal.SIGSTOP)
        try:
            with trio.fail_after(DEADLINE), pytest.raises(RpcFailedError, match="did not make a process"):
                await jobs.start("true")
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert "the launcher has not made a process within" in caplog.text
        monkeypatch.undo()
        await run(jobs, "true")
        assert [folder.name for folder in server.cgroup_of(lasting).parent.iterdir() if folder.is_dir()] == [lasting]


async def test_a_kill_where_the_cgroup_fails(host: Host) -> None:
    """The main process gets its SIGKILL though cgroup.kill cannot be written, which is told."""
    cgroup = OpenedCgroup(JobCgroup(path=host.folder.path / "job", folders=KernelFolders()))
    async with host.child("sleep", "1000") as (child, _output):
        execution = LocalExecution(host.launcher, child, cgroup, "sleep", "nobody")
        child.go()
        await child.wait_executed()
        number = cgroup._kill
        assert number is not None
        os.close(number)
        try:
            with pytest.raises(CgroupError):
                execution.kill()
        finally:
            os.dup2(cgroup.folder, number)  # for its owner to close
        with trio.fail_after(DEADLINE):
            assert await execution.wait_death() == Signalled(signal.SIGKILL)
    cgroup.close()


async def test_the_launcher_has_closed_the_output_first(host: Host) -> None:
    """An execution is closed when the launcher has closed its end of the output, so that it is not the last to do so."""
    cgroup = OpenedCgroup(JobCgroup(path=host.folder.path / "job", folders=KernelFolders()))
    is_closed = trio.Event()

    async def close(execution: LocalExecution) -> None:
        await execution.close()
        is_closed.set()

    async with host.child("true") as (child, _output):
        launcher_pid = parent_of(child.pid)
        os.kill(launcher_pid, signal.SIGSTOP)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(close, LocalExecution(host.launcher, child, cgroup, "true", "nobody"))
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert not is_closed.is_set()
                os.kill(launcher_pid, signal.SIGCONT)
        finally:
            os.kill(launcher_pid, signal.SIGCONT)


async def test_a_close_that_the_launcher_does_not_answer(host: Host) -> None:
    """An execution whose close is cancelled, since the launcher does not answer, has closed its input all the same."""
    cgroup = OpenedCgroup(JobCgroup(path=host.folder.path / "job", folders=KernelFolders()))
    read_end, pipe = open_input_pipe()
    os.set_blocking(read_end, False)
    stdin = Stdin(open_queue(), pipe, close_kept=trio.lowlevel.checkpoint)
    async with host.child("true") as (child, _output):
        with trio.CancelScope() as scope:
            scope.cancel()
            await LocalExecution(host.launcher, child, cgroup, "true", "nobody", stdin=stdin).close()
    assert os.read(read_end, 1) == b"", "nobody can write to it any more"
    os.close(read_end)


async def test_outputs_of_lost_jobs_whose_close_is_held_up(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads that are left in them are none of those that close what running jobs need."""
    entered, may_go, close = threading.Semaphore(0), threading.Event(), os.close
    ends = [end for _ in range(2) for end in os.pipe()]

    def held_up(descriptor: int) -> None:
        if descriptor in ends:
            entered.release()
            may_go.wait(DEADLINE)
        close(descriptor)

    monkeypatch.setattr(os, "close", held_up)
    free, total, taken = CLOSERS.available_tokens, CLOSERS.total_tokens, CLOSERS.borrowed_tokens
    async with trio.open_nursery() as nursery:
        nursery.start_soon(local._close_outputs, ends)
        for _ in ends:
            await trio.to_thread.run_sync(entered.acquire)
        mock_clock.jump(CLEARING_SECONDS)
    assert CLOSERS.available_tokens == free
    may_go.set()
    while CLOSERS.borrowed_tokens > taken:
        await trio.to_thread.run_sync(int)
    assert CLOSERS.total_tokens == total


@pytest.mark.parametrize(
    ("most", "asked", "cap"),
    [
        (None, 0, None),
        (None, 2**20, 2**20),
        (2**30, 0, 2**30),
        (2**30, 2**20, 2**20),
        (2**30, 2**30, 2**30),
    ],
)
def test_how_much_output_is_kept(tmp_path: Path, most: int | None, asked: int, cap: int | None) -> None:
    """What a job asks for, up to what the server keeps; the smallest that may be asked for is one that there can be."""
    terms = replace(terms_on(tmp_path), output_max=most)
    made = terms.cap(JobSpecification(command="x", output_max=asked, ends_when_full=True))
    assert made == (None if cap is None else Cap(cap, ends_job=True))
    assert SMALLEST == SMALLEST_OUTPUT


def test_more_output_than_the_server_keeps(tmp_path: Path) -> None:
    """It is refused, and the field is named."""
    terms = replace(terms_on(tmp_path), output_max=2**20)
    with pytest.raises(InvalidRequest, match="1048576 bytes at most") as refused:
        terms.cap(JobSpecification(command="x", output_max=2**20 + 1))
    assert refused.value.field == "output_max"


def test_orders_of_a_job_that_is_held() -> None:
    """A server that follows knows of each whether its signal may be taken for sent."""
    kinds = []

    class Notes:
        """A launcher that keeps the kinds of orders."""

        def order(self, _child_id: str, order: Order) -> None:
            """As `Launcher.order`."""
            kinds.append(order.kind)

    child = cast(Child, NeverExecutedChild())
    execution = LocalExecution(cast(Launcher, Notes()), child, cast(OpenedCgroup, CountingCgroup(0)), "x", "nobody")
    order = StopOrder(by="client1", requested_at=AT)
    execution.note_order(order, is_early=True)
    execution.note_order(order)
    execution.note_kill(order)
    assert kinds == ["stop when executed", "stop", "kill"]


@pytest.mark.parametrize(
    "order",
    [
        StopOrder(by=None, requested_at=AT),
        StopOrder(by=None, requested_at=AT, for_output=True),
        StopOrder(by="client1", requested_at=AT, reason="output_max"),
        StopOrder(by=None, requested_at=AT, for_run_time=True),
        StopOrder(by="client1", requested_at=AT, reason="max_run_ms"),
    ],
)
def test_orders_that_the_launcher_keeps(order: StopOrder) -> None:
    """A server that follows knows of each why it was given."""
    assert _stop_order(_order("stop", order)) == order
