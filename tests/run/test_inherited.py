"""Servers that die and are followed: jobs, orders, port and lock outlive them."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from time import sleep

import pytest

from tests.run.launching import DEADLINE, Folder
from tests.run.succession import Served, serving


@pytest.fixture
def served(tmp_path: Path, folder: Folder) -> Iterator[Served]:
    """Such a launcher with the bounds that never end it."""
    with serving(tmp_path, folder) as served:
        yield served


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1, signal.SIGUSR2], ids=["kill", "bug", "hand over"])
def test_a_job_outlives_its_server(served: Served, number: int) -> None:
    """It goes on, its output before, between and after is kept, and its own status is told to the next server."""
    served.want("job", "sh", "-c", "echo before; while [ ! -e go ]; do sleep 0.01; done; echo after; exit 42")
    served.wait(lambda: (served.path / "job.out").exists() and served.output("job") == b"before\n")
    served.end_server(number)
    (served.path / "go").touch()
    assert served.status("job") == (42 << 8, True)
    assert served.output("job") == b"before\nafter\n"
    assert len((served.path / "servers").read_text().split()) == 2
    assert served.stop()[0] == 0


def test_a_job_that_ends_without_a_server(served: Served) -> None:
    """Its end is kept until a server has written it down, the bytes in its pipe as well."""
    (served.path / "plan").write_text("fail")
    served.want("job", "sh", "-c", "echo $$ >pid; while [ ! -e go ]; do sleep 0.01; done; echo last; kill -SEGV $$")
    served.wait_for("job.launched", "pid")
    os.kill(served.server(), signal.SIGKILL)
    served.wait(lambda: len((served.path / "servers").read_text().split()) > 2)
    (served.path / "go").touch()
    served.wait(lambda: not Path(f"/proc/{(served.path / 'pid').read_text().strip()}").exists())
    (served.path / "plan").unlink()
    status, executed = served.status("job")
    assert (status & 0x7F, executed) == (signal.SIGSEGV, True)
    assert served.output("job") == b"last\n"
    assert served.stop()[0] == 0


def test_servers_killed_at_random(served: Served) -> None:
    """Whenever servers die, each job runs once or is said never to have run; status and every byte are true."""
    random = Random(5)
    lines, names, number = 400, [], 0
    script = "echo x >>$0.ran; i=0; while [ $i -lt {lines} ]; do echo $i; i=$((i+1)); done; exit {code}"
    for _ in range(12):
        for _ in range(4):
            names.append(f"job{number}")
            served.want(names[-1], "sh", "-c", script.format(lines=lines, code=number % 100), names[-1])
            number += 1
        old = served.server()
        sleep(random.uniform(0, 0.03))  # not to wait for something, but to be at a random place
        with suppress(ProcessLookupError):
            os.kill(old, random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGUSR1)))
        served.wait(lambda old=old: served.server() != old)  # type: ignore[misc]  # mypy does not infer lambdas with defaults
    expected = "".join(f"{i}\n" for i in range(lines)).encode()
    ran = 0
    for number, name in enumerate(names):
        status, executed = served.status(name)
        marks = served.path / f"{name}.ran"
        assert (marks.read_text() if marks.exists() else "") == ("x\n" if executed else "")
        assert served.output(name) == (expected if executed else b"")
        assert not executed or status == (number % 100) << 8
        ran += executed
    assert ran > len(names) / 2
    code, said = served.stop()
    assert code == 0, said


def test_an_order_outlives_the_server_that_gave_it(served: Served) -> None:
    """What was ordered before the server died is told to the next one, with the job."""
    script = "trap 'echo stopped; while [ ! -e go ]; do sleep 0.01; done; exit 3' TERM; echo up; while :; do sleep 0.01; done"
    served.want("job", "sh", "-c", script)
    served.wait(lambda: (served.path / "job.out").exists() and served.output("job") == b"up\n")
    (served.path / "job.stop").touch()
    served.wait(lambda: served.output("job") == b"up\nstopped\n")
    served.end_server()
    served.end_server()
    (served.path / "go").touch()
    assert served.status("job") == (3 << 8, True)
    assert (served.path / "job.order").read_text() == "client1 tested"


def test_the_port_is_kept(served: Served) -> None:
    """A client that comes while there is no server is served by the next one."""
    port = int((served.path / "port").read_text())
    (served.path / "plan").write_text("fail")
    old = served.server()
    os.kill(old, signal.SIGKILL)
    served.wait(lambda: len((served.path / "servers").read_text().split()) > 1)
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        (served.path / "plan").unlink()
        assert int(client.recv(100)) >= 2


def test_stopping_closes_the_port(served: Served) -> None:
    """A server that says that it stops leaves nobody waiting in the launcher's socket."""
    port = int((served.path / "port").read_text())
    code, said = served.stop()
    assert (code, said) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)


def test_the_lock_is_kept(served: Served) -> None:
    """The stand-in asserts that it inherits the lock; the launcher holds it, and lets go of it at its end."""
    served.end_server()
    assert files_of(served.process.pid).count(str(served.jobs.path)) == 1
    assert served.stop()[0] == 0


def files_of(pid: int) -> list[str]:
    """What the descriptors of a process name; one that is closed meanwhile is left out."""
    names: list[str] = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return names


def test_too_many_crashes(tmp_path: Path, folder: Folder) -> None:
    """The jobs are killed, which is said, and the launcher ends with 1."""
    with serving(tmp_path, folder, max_crashes=2) as served:
        served.want("job", "sleep", "1000")
        served.wait_for("job.launched")
        served.end_server()
        os.kill(served.server(), signal.SIGKILL)
        said = served.process.communicate(timeout=DEADLINE)[1]
        assert served.process.returncode == 1
        assert "died 2 times in 300 s (--max-crashes); its jobs are ended" in said
        assert folder.pids() == []


def test_servers_that_fail_to_start_are_no_crashes(tmp_path: Path, folder: Folder) -> None:
    """However many of them fail, another one is tried, and the jobs go on."""
    with serving(tmp_path, folder, max_crashes=2) as served:
        served.want("job", "sleep", "1000")
        served.wait_for("job.launched")
        (tmp_path / "plan").write_text("fail")
        old = served.server()
        os.kill(old, signal.SIGKILL)
        served.wait(lambda: len((tmp_path / "servers").read_text().split()) > 4)
        assert len(folder.pids()) == 1
        (tmp_path / "plan").unlink()
        served.wait(lambda: served.server() != old)
        code, said = served.stop()
        assert code == 0
        assert said.count("ended with status 1 before it was ready") >= 3


def test_too_long_without_a_server(tmp_path: Path, folder: Folder) -> None:
    """After the time that is allowed the jobs are killed, which is said, and the launcher ends with 1."""
    with serving(tmp_path, folder, max_gap=1) as served:
        served.want("job", "sleep", "1000")
        served.wait_for("job.launched")
        (tmp_path / "plan").write_text("fail")
        os.kill(served.server(), signal.SIGKILL)
        said = served.process.communicate(timeout=DEADLINE)[1]
        assert served.process.returncode == 1
        assert "no server has been ready for 1 s (--max-gap); its jobs are ended" in said
        assert folder.pids() == []


def test_a_server_that_hangs_before_it_is_ready(tmp_path: Path, folder: Folder) -> None:
    """It is ended with the jobs when the time without a server is over."""
    with serving(tmp_path, folder, max_gap=1) as served:
        (tmp_path / "plan").write_text("hang")
        os.kill(served.server(), signal.SIGKILL)
        said = served.process.communicate(timeout=DEADLINE)[1]
        assert served.process.returncode == 1
        assert "--max-gap" in said


def test_a_signal_that_comes_without_a_server(served: Served) -> None:
    """SIGTERM between two servers reaches the next one, which ends the jobs."""
    served.want("job", "sleep", "1000")
    served.wait_for("job.launched")
    (served.path / "plan").write_text("fail")
    os.kill(served.server(), signal.SIGKILL)
    served.wait(lambda: len((served.path / "servers").read_text().split()) > 2)
    (served.path / "plan").unlink()
    code, said = served.stop()
    assert code == 0, said
    assert served.jobs.pids() == []


def test_a_server_that_was_to_end_and_dies(served: Served) -> None:
    """It is followed by one that is told to end the jobs, too."""
    (served.path / "plan").write_text("ignore SIGTERM")
    old = served.end_server()
    served.process.terminate()
    served.wait_for("ignored")
    (served.path / "plan").unlink()
    os.kill(old, signal.SIGKILL)
    assert served.process.wait(DEADLINE) == 0


def test_what_the_service_manager_is_told(tmp_path: Path, folder: Folder) -> None:
    """That it is ready, that one server follows another, and that it stops; servers do not have its address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with serving(tmp_path, folder, environment=environment) as served:
            assert manager.recv(1000).startswith(b"READY=1\n")
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{served.server()}/environ").read_bytes()
            served.end_server(signal.SIGUSR2)
            assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(1000).startswith(b"READY=1\n")
            served.end_server()
            assert manager.recv(1000).startswith(b"STATUS=the server has died")
            assert manager.recv(1000).startswith(b"READY=1\n")
            assert served.stop()[0] == 0
            assert manager.recv(1000).startswith(b"STOPPING=1\n")
            manager.setblocking(False)
            with pytest.raises(BlockingIOError):
                manager.recv(1000)


def test_signals_pass_through_the_launcher(served: Served) -> None:
    """SIGUSR2 to the launcher has the server hand over."""
    old = served.server()
    served.process.send_signal(signal.SIGUSR2)
    served.wait(lambda: served.server() != old)
    code, said = served.stop()
    assert code == 0
    assert said == "jobmaster: the server has handed its jobs over; its jobs go on, and another one is started in 0 s\n"
