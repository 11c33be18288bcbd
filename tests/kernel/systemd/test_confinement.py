"""What the unit takes away is nothing that the server or its launcher needs for jobs of other users."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.host.uid_range import DEFAULT_UID_RANGE
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.run.local import OOM_SCORE_ADJ
from tests.harness import first_chunk, output_of, until_output
from tests.integration import test_fuse as fuse
from tests.integration.test_fuse import device as device  # a fixture
from tests.kernel.systemd.service import CGROUP, SECONDS, Service

pytestmark = [pytest.mark.kernel, pytest.mark.power]

CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
UNIT_SCORE: Final = -900
"""Of `OOMScoreAdjust=`; the launcher may lower its own."""
STOP_SECONDS: Final = 15.0
"""A server that waits for the processes to die by themselves gives up after 20 s."""


@pytest.fixture
def unmounted(service: Service) -> Iterator[None]:
    """Nothing is mounted there, and no job is left in the kernel, whatever becomes of the test."""
    del service  # which is stopped after the jobs are freed
    _unmount_fusectl()
    yield
    if not os.path.ismount(CONNECTIONS):
        mount_fusectl()
    for file in CONNECTIONS.glob("*/abort"):
        file.write_text("1")
    _unmount_fusectl()


def _unmount_fusectl() -> None:
    if os.path.ismount(CONNECTIONS):
        subprocess.run(["umount", str(CONNECTIONS)], check=True)


def mount_fusectl() -> None:
    """As systemd does it where the kernel has FUSE, by `sys-fs-fuse-connections.mount`."""
    subprocess.run(["mount", "-t", "fusectl", "fusectl", str(CONNECTIONS)], check=True)


@pytest.mark.parametrize("mounted", ["before", "after"])
async def test_fuse_file_systems_are_ended(service: Service, device: str, unmounted: None, mounted: str) -> None:
    """A stuck job is freed by the kernel's folder of connections, also where that was mounted while the server ran."""
    del unmounted
    if mounted == "before":
        mount_fusectl()
    await service.systemctl("start")
    if mounted == "after":
        mount_fusectl()
    with trio.fail_after(SECONDS):
        async with service.connect() as jobs:
            holder = await fuse.start(jobs, device, "one")
            await until_output(jobs, holder, b"up\n")
            await fuse.begin((await jobs.status(holder)).pid)
            with trio.move_on_after(STOP_SECONDS) as patience:
                await jobs.stop(holder, force=True)
                await jobs.wait(holder)
            assert not patience.cancelled_caught, await service.log()
            assert (await jobs.status(holder)).cause.stopped.by == "client1"
            assert await output_of(jobs, holder) == b"up\nline\n"
    assert "connections aborted" in await service.log()


JOB: Final = """
import json, os
print(json.dumps({
    "user": os.getuid(),
    "terminal": os.isatty(0) and os.fstat(0).st_uid,
    "score": int(open("/proc/self/oom_score_adj").read()),
    "root_seen": os.path.exists("/proc/1"),
    "own_seen": os.path.exists("/proc/self/status"),
}), flush=True)
input()
raise SystemExit(7)
"""
"""What a job finds out about itself, and an end that it is told."""


async def test_jobs_of_other_users(service: Service) -> None:
    """Jobs have their client's user, terminals are theirs, a score of their own; the server sees what they do not."""
    await service.systemctl("start")
    launcher = await service.main_pid()
    users = set()
    for name in ("client1", "client2"):
        async with service.connect(name) as jobs:
            command = (sys.executable, "-I", "-S", "-c", JOB)
            job_id = await jobs.start(*command, terminal=pb.Terminal())
            told = json.loads((await first_chunk(jobs, job_id)).splitlines()[0])
            folder = CGROUP / "jobs" / name / job_id
            assert told == {
                **told,
                "terminal": told["user"],
                "score": OOM_SCORE_ADJ,
                "root_seen": False,
                "own_seen": True,
            }
            assert {"cpu.max", "io.max", "memory.max", "pids.max"} <= {each.name for each in folder.iterdir()}
            assert int(Path(f"/proc/{launcher}/oom_score_adj").read_text()) <= UNIT_SCORE
            users.add(told["user"])
            await jobs.stop(job_id, force=True)
            assert (await jobs.wait(job_id)).cause.stopped.by == name
            assert not folder.exists()
    assert len(users) == 2
    assert all(each in DEFAULT_UID_RANGE for each in users)
    kept = (service.output / "uids.json").read_text()
    assert all(str(each) in kept for each in users)


async def test_the_doctor_in_the_unit(service: Service) -> None:
    """As the unit's own process it finds that nothing is missing for the server, which then starts."""
    told = service.output.with_name("doctor.json")
    command = shlex.join([sys.executable, "-P", "-m", "jobmaster", "doctor", "--json", *service.places])
    await service.add(f'ExecStartPre=-/bin/sh -c "{command} >{told}"')
    await service.systemctl("start")
    document = json.loads(told.read_text())
    findings = document["findings"]
    assert document["ok"], findings
    topics = {
        verdict: {each["topic"] for each in findings if each["verdict"] == verdict} for verdict in ("ok", "warning")
    }
    assert topics["warning"] == {"clock"}  # which must not be asked for there
    assert {"user ids", "address", "configuration", "cgroup root", "memory", "io"} <= topics["ok"]
    (root,) = [each["text"] for each in findings if each["topic"] == "cgroup root"]
    assert str(CGROUP) in root
