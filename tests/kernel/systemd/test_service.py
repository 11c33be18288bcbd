"""The unit under a real systemd: active when it is ready, and as long as its jobs live."""

from __future__ import annotations

import dataclasses
import os
import signal
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import trio
from purerpc.grpclib.exceptions import UnauthenticatedError

from jobmaster.client import Jobs
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.server.config_file import KEPT_NAME
from tests.harness import first_chunk, is_alive
from tests.kernel.systemd.service import CGROUP, NAME, SECONDS, Service, processes_in, replace_launcher
from tests.processes import servers_of

pytestmark = [pytest.mark.kernel, pytest.mark.power]

UPGRADES: Final = 5
SHORT_WATCHDOG: Final = 15
"""Seconds; a guest whose host is busy takes five for what else takes one."""
FOLLOWED: Final = 5
"""Jobs that write, each with a follower."""
WRITES: Final = """
import itertools, os, sys, time
for number in itertools.count():
    os.write(1, b"%d\\n" % number)
    if os.path.exists(sys.argv[1]):
        raise SystemExit(7)
    time.sleep(0.05)
"""
TRAPS: Final = "exec 2>/dev/null; trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.1; done"
_stops = (Path(f"/tmp/stop-{number}") for number in count())  # where jobs see it; the guest's own


async def start_writer(jobs: Jobs, stop: Path) -> str:
    """Starts a job that writes numbers, line by line, until a file is there; it then exits with 7."""
    return await jobs.start(sys.executable, "-I", "-S", "-c", WRITES, str(stop))


@dataclass(slots=True)
class Follower:
    """Follows one output to its end."""

    job_id: str
    received: bytearray = field(default_factory=bytearray)
    longest_silence: float = 0.0
    growth: trio.Event = field(default_factory=trio.Event)

    async def follow(self, service: Service) -> None:
        """Over as many servers as it takes."""
        async with service.connect() as jobs, jobs.stream_output(self.job_id) as chunks:
            last = trio.current_time()
            async for chunk in chunks:
                self.received += chunk
                now = trio.current_time()
                self.longest_silence, last = max(self.longest_silence, now - last), now
                self.growth.set()

    async def wait_growth(self) -> None:
        """Returns when more has come."""
        self.growth = trio.Event()
        with trio.fail_after(SECONDS):
            await self.growth.wait()


def numbers(count_: int) -> bytes:
    """What a writer has written when it ends."""
    return b"".join(b"%d\n" % number for number in range(count_))


@asynccontextmanager
async def states_of(service: Service, name: str) -> AsyncIterator[set[str]]:
    """All values of a property of the unit that are seen in the block."""
    seen: set[str] = set()

    async def look() -> None:
        while True:
            seen.add(await service.property(name))
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        yield seen
        nursery.cancel_scope.cancel()


async def test_active_when_ready(service: Service) -> None:
    """When `systemctl start` returns, the very first call is answered; until then the unit is activating."""
    async with states_of(service, "ActiveState") as states:
        await service.systemctl("start")
        async with service.connect(patience=0) as jobs:
            assert (await jobs.wait(await jobs.start("true"))).exit_code == 0
        assert await service.property("ActiveState") == "active"
    assert states <= {"inactive", "activating", "active"}
    assert "activating" in states


async def test_a_killed_server(service: Service) -> None:
    """The unit stays active over the server's death, in the same process; the job goes on, and its end is true."""
    await service.systemctl("start")
    launcher, stop = await service.main_pid(), next(_stops)
    async with service.connect() as jobs, states_of(service, "ActiveState") as states:
        job_id = await start_writer(jobs, stop)
        await first_chunk(jobs, job_id)
        pid = (await jobs.status(job_id)).pid
        (old,) = servers_of(launcher)
        os.kill(old, signal.SIGKILL)
        await service.successor(old)
        assert processes_in(service.cgroup_of(job_id)) == [pid]
        stop.touch()
        record = await jobs.wait(job_id)
        assert (record.pid, record.exit_code) == (pid, 7)
    assert states == {"active"}
    assert (await service.main_pid(), await service.property("NRestarts")) == (launcher, "0")


async def test_a_reload(service: Service) -> None:
    """`systemctl reload` has the server read its certificates and its configuration again, and ends nothing."""
    await service.systemctl("start")
    launcher = await service.main_pid()
    servers = servers_of(launcher)
    async with service.connect() as jobs, states_of(service, "ActiveState") as states:
        job_id = await jobs.start("sh", "-c", "echo up; sleep 1000")
        await first_chunk(jobs, job_id)
        await service.systemctl("reload")
        with trio.fail_after(SECONDS):
            while "read again: certificates, and configuration none: no change" not in await service.log():
                await trio.sleep(0.05)
        assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING
        await jobs.stop(job_id, force=True)
    assert states <= {"active", "reloading"}
    assert (await service.main_pid(), servers_of(launcher)) == (launcher, servers)


async def test_a_reload_without_a_client(service: Service) -> None:
    """One that `systemctl reload` takes out loses its streams; another loses no byte, and all jobs go on, as does the unit."""
    file, stop = service.output.with_name("config.toml"), next(_stops)
    file.write_text("[clients]\nclient1.role = 'user'\nclient2.role = 'user'\n")
    service = dataclasses.replace(service, options=("--config", str(file)))
    await service.install()
    await service.systemctl("start")
    launcher = await service.main_pid()
    servers = servers_of(launcher)
    async with service.connect() as stays, service.connect("client2", patience=0) as goes:
        follower = Follower(await start_writer(stays, stop))
        other = await goes.start("sh", "-c", "echo up; exec sleep 1000")
        async with trio.open_nursery() as nursery, states_of(service, "ActiveState") as states:
            nursery.start_soon(follower.follow, service)
            await follower.wait_growth()
            async with goes.stream_output(other) as chunks:
                assert await anext(aiter(chunks)) == b"up\n"
                file.write_text("[clients]\nclient1.role = 'user'\n")
                await service.systemctl("reload")
                with trio.fail_after(SECONDS), pytest.raises(UnauthenticatedError, match="does not know client2"):
                    await anext(aiter(chunks))
            await follower.wait_growth()
            stop.touch()
    assert states <= {"active", "reloading"}
    lines = follower.received.count(b"\n")
    assert follower.received == numbers(lines)
    assert len(processes_in(CGROUP / "jobs" / "client2" / other)) == 1
    assert (await service.main_pid(), servers_of(launcher)) == (launcher, servers)


async def test_upgrades(service: Service) -> None:
    """Upgrades in a row, of the launcher's program too, end no job and lose no byte; the unit stays active in one process."""
    await service.systemctl("start")
    launcher, stop = await service.main_pid(), next(_stops)
    seconds = []
    async with service.connect() as jobs, states_of(service, "ActiveState") as states:
        followers = [Follower(await start_writer(jobs, stop)) for _ in range(FOLLOWED)]
        pids = [(await jobs.status(each.job_id)).pid for each in followers]
        async with trio.open_nursery() as nursery:
            for follower in followers:
                nursery.start_soon(follower.follow, service)
            for number in range(UPGRADES):
                if number % 2:
                    replace_launcher(service.installed)
                (old,) = servers_of(launcher)
                begin = trio.current_time()
                await service.systemctl("kill", "-s", "SIGUSR2", "--kill-whom=main")
                await service.successor(old)
                seconds.append(trio.current_time() - begin)
                for follower in followers:
                    await follower.wait_growth()
            assert [processes_in(service.cgroup_of(each.job_id)) for each in followers] == [[pid] for pid in pids]
            stop.touch()
        records = [await jobs.wait(each.job_id) for each in followers]
    assert [(record.pid, record.exit_code) for record in records] == [(pid, 7) for pid in pids]
    assert [record.output_bytes_lost for record in records] == [0] * FOLLOWED
    for follower, record in zip(followers, records, strict=True):
        lines = follower.received.count(b"\n")
        assert follower.received == numbers(lines)
        assert len(follower.received) == record.output_bytes
    assert states <= {"active", "reloading"}
    assert (await service.main_pid(), await service.property("NRestarts")) == (launcher, "0")
    print(
        f"\n{UPGRADES} upgrades, ready after {statistics.median(seconds):.1f} s in the middle, {max(seconds):.1f} at most; "
        f"{sum(len(each.received) for each in followers)} bytes followed; longest silence of a follower "
        f"{max(each.longest_silence for each in followers):.1f} s; states seen: {sorted(states)}"
    )


async def test_restart(service: Service) -> None:
    """`systemctl restart` ends the jobs and says so in their records, which the next server has; nothing is left."""
    await service.systemctl("start")
    async with service.connect() as jobs:
        ended = await jobs.start("sh", "-c", "echo done; exit 5")
        before = await jobs.wait(ended)
        sleeper, trapper = await jobs.start("sleep", "1000"), await jobs.start("sh", "-c", TRAPS)
        await first_chunk(jobs, trapper)
        pids = processes_in(CGROUP)
        await service.systemctl("restart")
    async with service.connect(patience=0) as jobs:
        assert await jobs.status(ended) == before
        for job_id, has_returned in ((sleeper, False), (trapper, True)):
            record = await jobs.status(job_id)
            shutdown = record.cause.server_shutdown
            assert (shutdown.signal, shutdown.returned) == (signal.SIGTERM, has_returned)
            assert (record.state, record.signal_str) == (pb.JOBSTATE_TERMINATED_BY_API, "terminated")
            assert not service.cgroup_of(job_id).exists()
        async with jobs.stream_output(trapper) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == b"up\ntold\n"
    assert [pid for pid in pids if is_alive(pid)] == []
    assert await service.property("NRestarts") == "0"
    await service.systemctl("stop")
    assert await service.property("ActiveState") == "inactive"
    assert not CGROUP.exists()
    left = {file.name for file in service.output.iterdir()} - {
        "journal.db",
        "journal.ballast",
        "journal.db-wal",
        "cgroup",
        "audit",
        KEPT_NAME,
    }
    written = {f"{job_id}.index" for job_id in (ended, trapper)}  # there is none of an output without a byte
    assert left == {f"{job_id}.log" for job_id in (ended, sleeper, trapper)} | written


async def test_a_killed_launcher(service: Service) -> None:
    """Systemd starts both anew; the job has ended with its launcher, and is told as lost."""
    await service.systemctl("start")
    launcher = await service.main_pid()
    async with service.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "echo up; setsid sleep 1000 & wait")
        await first_chunk(jobs, job_id)
        pids = processes_in(service.cgroup_of(job_id))
    os.kill(launcher, signal.SIGKILL)
    with trio.fail_after(SECONDS):
        while await service.property("NRestarts") != "1" or await service.property("ActiveState") != "active":
            await trio.sleep(0.05)
    async with service.connect(patience=0) as jobs:
        record = await jobs.status(job_id)
        assert record.cause.WhichOneof("kind") == "server_lost"
    assert [pid for pid in pids if is_alive(pid)] == []
    assert not service.cgroup_of(job_id).exists()


async def test_a_job_out_of_memory(service: Service) -> None:
    """A job that the kernel kills for its memory has ended so; the unit is active, in the same process, and takes the next."""
    service = dataclasses.replace(service, options=("--memory-max", "64M"))
    await service.install()
    await service.systemctl("start")
    launcher = await service.main_pid()
    async with service.connect() as jobs, states_of(service, "ActiveState") as states:
        record = await jobs.wait(await jobs.start(sys.executable, "-I", "-S", "-c", "bytearray(200 << 20)"))
        assert record.cause.WhichOneof("kind") == "oom_killed"
        assert (await jobs.wait(await jobs.start("true"))).exit_code == 0
    assert states == {"active"}
    assert (await service.property("Result"), await service.main_pid()) == ("success", launcher)


async def test_what_a_job_meets(service: Service) -> None:
    """A job sees the host's /tmp and writes there; it is in its own cgroup, has no capability, and /usr can't be written."""
    await service.systemctl("start")
    mark = Path(f"/tmp/{NAME}-mark")
    mark.touch()
    mark.chmod(0o666)
    script = f"""
        echo seen >{mark} && touch {mark}-mine && grep -E "^(NoNewPrivs|CapEff|CapBnd):" /proc/self/status
        cat /proc/self/cgroup; umask; ulimit -n; test -w /usr || echo read-only; getent passwd root
    """
    async with service.connect() as jobs:
        job_id = await jobs.start("sh", "-c", script)
        async with jobs.stream_output(job_id) as chunks:
            output = b"".join([chunk async for chunk in chunks]).decode()
        assert (await jobs.wait(job_id)).exit_code == 0, output
    assert (mark.read_text(), Path(f"{mark}-mine").exists()) == ("seen\n", True)
    for words in (
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        f"/jobs/client1/{job_id}",
    ):
        assert words in output
    assert "read-only" in output
    assert "root:x:0" in output


async def test_options_come_to_the_server_as_they_were(service: Service) -> None:
    """Blanks, quotes, backslashes, `$` and `%` of an option are what the server has."""
    odd = Path("/tmp/a b'c\"d\\s$HOME${HOME}100%h;\u00e9")
    service = dataclasses.replace(service, output=odd)
    await service.install()
    await service.systemctl("start")
    launcher = await service.main_pid()
    assert os.fsencode(odd) in Path(f"/proc/{launcher}/cmdline").read_bytes().split(b"\0")
    assert (odd / "journal.db").exists()


async def test_exposure(service: Service) -> None:
    """Systemd reckons an exposure under 5.0 of the unit as it is installed."""
    command = ["systemd-analyze", "security", "--no-pager", NAME]
    told = (await trio.run_process(command, capture_stdout=True)).stdout.decode()
    last = told.splitlines()[-1]
    assert float(last.rpartition(": ")[2].split()[0]) < 5.0, told
    print(f"\n{last}")


async def test_a_server_that_hangs(service: Service) -> None:
    """It is killed, and its job goes on under the next one; the unit is active in the same process, and was not restarted."""
    await service.shorten_watchdog(SHORT_WATCHDOG)
    await service.systemctl("start")
    launcher, stop = await service.main_pid(), next(_stops)
    async with service.connect() as jobs:
        job_id = await start_writer(jobs, stop)
        await first_chunk(jobs, job_id)
        pid = (await jobs.status(job_id)).pid
        (old,) = servers_of(launcher)
        os.kill(old, signal.SIGSTOP)
        with trio.fail_after(SECONDS):
            while is_alive(old):
                await trio.sleep(0.5)
        await service.successor(old)
        assert processes_in(service.cgroup_of(job_id)) == [pid]
        stop.touch()
        record = await jobs.wait(job_id)
        assert (record.pid, record.exit_code) == (pid, 7)
    assert (await service.property("ActiveState"), await service.property("NRestarts")) == ("active", "0")
    assert await service.main_pid() == launcher


async def test_a_launcher_that_hangs(service: Service) -> None:
    """Systemd kills it and starts another one; its job is told as lost."""
    await service.shorten_watchdog(SHORT_WATCHDOG)
    await service.systemctl("start")
    launcher = await service.main_pid()
    async with service.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
    os.kill(launcher, signal.SIGSTOP)
    with trio.fail_after(SECONDS):
        while await service.property("NRestarts") != "1" or await service.property("ActiveState") != "active":
            await trio.sleep(0.05)
    async with service.connect(patience=0) as jobs:
        assert (await jobs.status(job_id)).cause.WhichOneof("kind") == "server_lost"
