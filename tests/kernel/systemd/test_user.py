"""A server of an ordinary user, in a cgroup that this user's own systemd has delegated to it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.address import DEFAULT_PORT
from jobmaster.client import connect
from tests.harness import REPOSITORY, output_of
from tests.kernel.systemd.service import RUNNING_SYSTEMD, SECONDS
from tests.processes import servers_of

pytestmark = [pytest.mark.kernel, pytest.mark.power]

USER: Final = "nobody"


@pytest.fixture
def folder(certificates: Path) -> Iterator[Path]:
    """A folder of the user's, with the program and the certificates."""
    if not RUNNING_SYSTEMD.exists():
        pytest.skip("runs in the guest with systemd of `nox -s power`")
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))  # pytest's own is root's alone
    shutil.copytree(REPOSITORY / "jobmaster", folder / "jobmaster")
    shutil.copytree(certificates, folder / "certs", ignore=shutil.ignore_patterns("hostile"))
    subprocess.run(["chown", "-R", USER, folder], check=True)
    yield folder
    shutil.rmtree(folder)


def in_session(folder: Path, *command: str) -> list[str]:
    """A command as the user has it run in a scope of the session, with all that may be delegated."""
    user = pwd.getpwnam(USER)
    environment = (f"XDG_RUNTIME_DIR=/run/user/{user.pw_uid}", f"PYTHONPATH={folder}", f"HOME={folder}")
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "env", *environment]
    return [*become, "systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes", *command]


async def test_a_delegated_session(folder: Path, certificates: Path) -> None:
    """It runs jobs as its own user and holds the limits of cpu, memory and pids; it says that IO limits are not; another server follows."""
    uid = pwd.getpwnam(USER).pw_uid
    await trio.run_process(["systemctl", "start", f"user@{uid}.service"])
    options = ("--output-dir", f"{folder}/output", "--certs-dir", f"{folder}/certs", "--memory-max", "64M")
    command = in_session(folder, sys.executable, "-P", "-m", "jobmaster.serve", *options)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
    try:
        with trio.fail_after(2 * SECONDS):
            while b"ready on" not in (folder / "log").read_bytes():
                assert server.poll() is None
                await trio.sleep(0.1)
            async with connect(
                "localhost", DEFAULT_PORT, folder=certificates, name="client1", patience=SECONDS
            ) as jobs:
                job_id = await jobs.start("sh", "-c", "id -u; cat /proc/self/cgroup")
                user, cgroup = (await output_of(jobs, job_id)).decode().split()
                assert int(user) == uid
                assert f"/user@{uid}.service/" in cgroup
                greedy = await jobs.wait(await jobs.start(sys.executable, "-I", "-S", "-c", "bytearray(200 << 20)"))
                assert greedy.cause.WhichOneof("kind") == "oom_killed"
                (old,) = servers_of(server.pid)
                os.kill(old, signal.SIGKILL)  # the next one is in a cgroup below the delegated one
                assert (await jobs.wait(await jobs.start("true"))).exit_code == 0
                assert (await jobs.status(job_id)).exit_code == 0
    finally:
        server.terminate()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SECONDS):
            await trio.to_thread.run_sync(server.wait, abandon_on_cancel=True)
        said = (folder / "log").read_text()
        print(said)
    assert server.returncode == 0
    for name in ("cpu", "memory", "pids"):
        assert f"enforced by the {name} controller" in said
    assert "NOT ENFORCED" in next(line for line in said.splitlines() if " io" in line)
    assert "this server is not root" in said
