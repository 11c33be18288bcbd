"""A launcher whose program is replaced on disk while jobs run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import jobmaster
from tests.run.launching import DEADLINE, Folder
from tests.run.succession import Served, serving

SCRIPT = "echo before; while [ ! -e go ]; do sleep 0.01; done; echo after; exit 42"


@pytest.fixture
def trial_seconds() -> float:
    """How long a new program may take to answer; on a busy machine that is long."""
    return 60.0


@pytest.fixture
def program(tmp_path: Path, trial_seconds: float) -> Path:
    """A launcher's program of the test's own."""
    package = tmp_path / "program" / "jobmaster"
    source = Path(jobmaster.__file__).parent
    shutil.copytree(source / "launcher", package / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "__init__.py", package)
    renewal = package / "launcher" / "renewal.py"
    renewal.write_text(
        renewal.read_text().replace("TRIAL_SECONDS: Final = 10.0", f"TRIAL_SECONDS: Final = {trial_seconds}")
    )
    return package / "launcher"


@pytest.fixture
def served(tmp_path: Path, folder: Folder, program: Path) -> Iterator[Served]:
    """A launcher of that program, with a job that waits for a file."""
    path = tmp_path / "served"
    path.mkdir()
    with serving(path, folder, program=program) as served:
        served.want("job", "sh", "-c", SCRIPT)
        served.wait(lambda: (path / "job.out").exists() and served.output("job") == b"before\n")
        yield served


def hand_over(served: Served) -> None:
    """Has one server follow another."""
    old = served.server()
    served.process.send_signal(signal.SIGUSR2)
    served.wait(lambda: served.server() != old)


def was_replaced(served: Served) -> bool:
    """Whether the process executes another program than the one it was started with."""
    return b"\0--table\0" in Path(f"/proc/{served.process.pid}/cmdline").read_bytes()


def end_job(served: Served) -> None:
    """Lets the job end, which has to have gone on."""
    (served.path / "go").touch()
    assert served.status("job") == (42 << 8, True)
    assert served.output("job") == b"before\nafter\n"


def test_a_program_that_is_the_same(served: Served) -> None:
    """A hand-over alone replaces nothing."""
    hand_over(served)
    assert not was_replaced(served)
    end_job(served)


def test_a_new_program(served: Served, program: Path) -> None:
    """It goes on in the same process with jobs, orders, port, lock and status; servers and signals work as before."""
    port = int((served.path / "port").read_text())
    served.want("stopped", "sh", "-c", "trap '' TERM; echo up; while [ ! -e go ]; do sleep 0.01; done; exit 3")
    served.wait(lambda: (served.path / "stopped.out").exists() and served.output("stopped") == b"up\n")
    (served.path / "stopped.stop").touch()
    served.wait_for("stopped.stopped")
    (program / "succession.py").touch()
    hand_over(served)
    assert was_replaced(served)
    served.end_server()
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        assert int(client.recv(100)) == 2
    (program / "succession.py").touch()
    hand_over(served)
    end_job(served)
    assert served.status("stopped") == (3 << 8, True)
    assert (served.path / "stopped.order").read_text() == "client1 tested"
    served.want("new", "sh", "-c", "ulimit -S -n; cat /proc/self/oom_score_adj; exit 7")
    assert served.status("new") == (7 << 8, True)
    assert served.output("new") == b"64\n0\n"
    limits = Path(f"/proc/{served.server()}/limits").read_text()
    assert limits == Path("/proc/self/limits").read_text()
    code, said = served.stop()
    assert (code, served.jobs.pids()) == (0, [])
    assert said.count("program has changed") == 2


def test_a_job_that_ends_while_the_program_is_replaced(served: Served, program: Path) -> None:
    """Its status and what was in its pipe are kept."""
    (served.path / "plan").write_text("fail")
    (program / "succession.py").touch()
    served.process.send_signal(signal.SIGUSR2)
    served.wait(lambda: was_replaced(served))
    (served.path / "go").touch()
    served.wait(lambda: len((served.path / "servers").read_text().split()) > 2)
    (served.path / "plan").unlink()
    end_job(served)
    assert served.stop()[0] == 0


@pytest.mark.parametrize(
    ("addition", "why"),
    [
        ("this is no Python", "it ended with status 1"),
        ("raise SystemExit(3)", "it ended with status 3"),
        ("raise SystemExit(0)", "it ended with status 0"),
        ("import os; os.kill(os.getpid(), 11)", "it ended with status -11"),
    ],
)
def test_a_new_program_that_does_not_work(served: Served, program: Path, addition: str, why: str) -> None:
    """The old one says why, and goes on."""
    check_it_goes_on(served, program, addition, why)


@pytest.mark.parametrize("trial_seconds", [0.5])
def test_a_new_program_that_does_not_answer(served: Served, program: Path) -> None:
    """The old one gives it up, says so, and goes on."""
    check_it_goes_on(served, program, "import time; time.sleep(1000)", "it has not answered within 0.5 s")


def check_it_goes_on(served: Served, program: Path, addition: str, why: str) -> None:
    """The launcher whose new program has this at its end says why it is none, and goes on."""
    with (program / "table.py").open("a") as file:
        file.write(f"\n{addition}\n")
    hand_over(served)
    assert not was_replaced(served)
    served.end_server()
    end_job(served)
    code, said = served.stop()
    assert code == 0
    assert f"the launcher's new program cannot take over, the old one goes on: {why}\n" in said


def test_a_program_that_is_gone(served: Served, program: Path) -> None:
    """The one that runs goes on without its files."""
    shutil.rmtree(program)
    hand_over(served)
    end_job(served)
    assert os.path.basename(os.readlink(f"/proc/{served.process.pid}/exe")).startswith("python")
    assert served.stop()[0] == 0
