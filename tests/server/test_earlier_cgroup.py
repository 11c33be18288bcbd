"""What an earlier server left in a cgroup that is not this one's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.lock import take_lock
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.server import earlier_cgroup
from jobmaster.server.earlier_cgroup import NAME, end_earlier_jobs, end_what_is_left
from jobmaster.server.succession import AddressInUse
from tests.harness import own_cgroup_root, serving


@contextmanager
def two_trees() -> Iterator[tuple[CgroupTree, CgroupTree]]:
    """The cgroups of two servers."""
    with own_cgroup_root() as one, own_cgroup_root() as other:
        trees = CgroupTree(root=one), CgroupTree(root=other)
        for tree in trees:
            tree.prepare()
        yield trees


@contextmanager
def left_in(tree: CgroupTree, *descriptors: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a job that nobody has, with these descriptors; ended and removed at the end, if it is not before."""
    job = tree.create("client1", "job", ())
    with subprocess.Popen(["sleep", "1000"], pass_fds=descriptors) as process:
        job.procs_path.write_text(str(process.pid))
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            job.remove()


async def how_it_ends(process: subprocess.Popen[bytes]) -> int:
    """How a process ends that gets SIGTERM now, if it has not ended before."""
    process.terminate()
    return await trio.to_thread.run_sync(process.wait)


async def test_another_root(tmp_path: Path) -> None:
    """What is left of the jobs of a server with another root is killed and removed, and told; the next start finds nothing."""
    with two_trees() as (earlier, own), left_in(earlier) as process:
        assert await end_earlier_jobs(tmp_path, earlier) is None
        told = await end_earlier_jobs(tmp_path, own)
        assert await how_it_ends(process) == -signal.SIGKILL
        assert told is not None
        assert str(earlier.jobs) in told
        assert not earlier.root.exists()
        assert await end_earlier_jobs(tmp_path, own) is None
        assert await end_earlier_jobs(tmp_path, earlier) is None, "an empty folder is removed without a word"
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


async def test_a_server_on_another_root(tmp_path: Path, certificates: Path) -> None:
    """A server that is ready has ended what an earlier one left elsewhere, and has named its own cgroup."""
    output = tmp_path / "output"
    output.mkdir(mode=0o700)
    with two_trees() as (earlier, _), left_in(earlier) as process:
        (output / NAME).write_text(str(earlier.jobs))
        async with serving(tmp_path, certificates) as server:
            assert await how_it_ends(process) == -signal.SIGKILL
            assert (output / NAME).read_text() == str(server.cgroup_root / "jobs")


async def test_the_port_of_a_server(tmp_path: Path, certificates: Path) -> None:
    """What is left of an earlier server's jobs is ended where it has taken the port, and the server is ready on that."""
    output = tmp_path / "output"
    output.mkdir(mode=0o700)
    with two_trees() as (earlier, _), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with left_in(earlier, taken.fileno()) as process:
            taken.close()
            (output / NAME).write_text(str(earlier.jobs))
            async with serving(tmp_path, certificates, "--listen", f"127.0.0.1:{port}") as server:
                assert server.port == port
            assert await how_it_ends(process) == -signal.SIGKILL


async def test_a_port_of_anothers_job(tmp_path: Path, certificates: Path) -> None:
    """A job of a server that lives, or one named in a folder that others may write, may keep the port."""
    output = tmp_path / "output"
    output.mkdir(mode=0o700)
    with two_trees() as (others, _), socket.create_server(("127.0.0.1", 0)) as taken, left_in(others) as process:
        (output / NAME).write_text(str(others.jobs))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        lock = take_lock(others.jobs)
        assert lock is not None
        with pytest.RaisesGroup(AddressInUse, flatten_subgroups=True):
            async with serving(tmp_path, certificates, "--listen", address):
                pass
        os.close(lock)
        output.chmod(0o777)
        with pytest.RaisesGroup(pytest.RaisesExc(ConfigurationError, match="others"), flatten_subgroups=True):
            async with serving(tmp_path, certificates, "--listen", address):
                pass
        assert await how_it_ends(process) == -signal.SIGTERM


async def test_a_port_of_a_server_that_is_starting(tmp_path: Path, certificates: Path) -> None:
    """What an earlier server has left is that one's, which has the folder already: its cgroup is not removed under its feet."""
    output = tmp_path / "output"
    output.mkdir(mode=0o700)
    with two_trees() as (earlier, _), socket.create_server(("127.0.0.1", 0)) as taken, left_in(earlier) as process:
        (output / NAME).write_text(str(earlier.jobs))
        lock = take_lock(output)
        assert lock is not None
        with pytest.RaisesGroup(AddressInUse, flatten_subgroups=True):
            async with serving(tmp_path, certificates, "--listen", f"127.0.0.1:{taken.getsockname()[1]}"):
                pass
        os.close(lock)
        assert earlier.jobs.exists()
        assert await how_it_ends(process) == -signal.SIGTERM


async def test_the_same_root(tmp_path: Path) -> None:
    """Jobs in this server's own cgroup are left: it may be about to adopt them."""
    with two_trees() as (own, _), left_in(own) as process:
        for _ in range(2):
            assert await end_earlier_jobs(tmp_path, own) is None
        assert await how_it_ends(process) == -signal.SIGTERM


async def test_another_servers_root(tmp_path: Path) -> None:
    """A cgroup that another server has now is left alone."""
    with two_trees() as (others, own), left_in(others) as process:
        await end_earlier_jobs(tmp_path, others)
        lock = take_lock(others.jobs)
        assert lock is not None
        assert await end_earlier_jobs(tmp_path, own) is None
        os.close(lock)
        assert await how_it_ends(process) == -signal.SIGTERM


@pytest.mark.parametrize("text", [b"", b"jobs", b"/etc", b"/nowhere/jobs", b"/a\0b/jobs", b"\xff" * 5000])
async def test_a_name_of_no_jobs(tmp_path: Path, text: bytes) -> None:
    """Whatever else the file says is passed over, and replaced."""
    (tmp_path / NAME).write_bytes(text)
    with two_trees() as (own, _):
        assert await end_earlier_jobs(tmp_path, own) is None
        assert (tmp_path / NAME).read_text() == str(own.jobs)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/proc/self/cgroup", path)])
async def test_a_name_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """What somebody else has put there is not waited for."""
    make(tmp_path / NAME)
    with trio.fail_after(60):
        assert not await end_what_is_left(tmp_path, check=lambda: None)


async def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full keeps no server from its start; that is told."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(earlier_cgroup, "_write", full)
    with two_trees() as (own, _):
        assert await end_earlier_jobs(tmp_path, own) is None
    assert "cannot be written: No space left on device" in caplog.text
