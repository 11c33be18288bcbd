"""A job's terminal as somebody sits before it, in tmux: an editor, sizes, keys that are signals, detach and attach."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import REPOSITORY, Server, serving_program
from tests.integration.test_adoption import wait_for_successor
from tests.integration.test_command_line import command

DEADLINE: Final = 60.0


class Tmux:
    """A terminal with a shell of this host in it, whose prompt is `local>`."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)
        self._run("new-session", "-d", "-x", "80", "-y", "24", "-c", str(REPOSITORY), "env PS1='local> ' sh")

    def _run(self, *arguments: str) -> str:
        argv = ["tmux", "-S", self._socket, "-f", os.devnull, *arguments]
        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        return subprocess.run(argv, check=True, capture_output=True, text=True, env=environment).stdout

    def type(self, *keys: str) -> None:
        """Types keys, by tmux's names where it has any."""
        self._run("send-keys", "--", *keys)

    def line(self, text: str) -> None:
        """Types a line."""
        self._run("send-keys", "-l", "--", text)
        self.type("Enter")

    def resize(self, rows: int, columns: int) -> None:
        """Gives the terminal another size."""
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def clear(self) -> None:
        """Forgets what was on the screen, as tmux has it."""
        self._run("send-keys", "-R")
        self._run("clear-history")

    def screen(self) -> str:
        """What is on the screen."""
        return self._run("capture-pane", "-p")

    async def until(self, text: str) -> str:
        """The screen, when this is on it."""
        screen = ""
        with trio.move_on_after(DEADLINE):
            while text not in (screen := self.screen()):
                await trio.sleep(0.02)  # tmux tells by no event
            return screen
        raise AssertionError(f"{text!r} is not on the screen:\n{screen}")

    def modes(self) -> str:
        """The settings of the terminal, as this host's kernel has them."""
        name = self._run("display-message", "-p", "#{pane_tty}").strip()
        return subprocess.run(["stty", "-a", "-F", name], check=True, capture_output=True, text=True).stdout

    def child(self) -> int:
        """The pid of the program that the shell runs."""
        pid = self._run("display-message", "-p", "#{pane_pid}").strip()
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def end(self) -> None:
        """Ends everything in it."""
        self._run("kill-server")


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    """One of the test's own."""
    for program, package in (("tmux", "tmux"), ("vi", "vim-tiny"), ("bash", "bash")):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}, of Debian's package {package}")
    made = Tmux(tmp_path / "tmux")
    yield made
    made.end()


def jobmaster(server: Server, *arguments: str) -> str:
    """A command line."""
    return shlex.join(command(server, *arguments))


async def in_a_shell(tmux: Tmux, server: Server) -> None:
    """Starts a shell on the server, in a folder of its own; its prompt is `remote>`."""
    await tmux.until("local>")
    tmux.line(jobmaster(server, "run", "-t", "bash", "--norc", "-i"))
    await tmux.until("bash-")
    tmux.line("PS1='rem''ote> '; cd $(mktemp -d /tmp/jobmaster.XXXXXX); clear")
    await tmux.until("remote>")


async def leave(tmux: Tmux, status: int) -> None:
    """Ends the shell on the server, and sees how `jobmaster` did, and that it left the terminal as it was."""
    tmux.line(f"cd /; rm -r $OLDPWD; clear; exit {status}")
    await tmux.until("exit\nlocal>")
    tmux.line("echo status=$?")
    await tmux.until(f"status={status}")
    assert_cooked(tmux)


def assert_cooked(tmux: Tmux) -> None:
    """The terminal edits lines, echoes keys and makes signals of them again."""
    assert {"icanon", "echo", "isig", "opost", "icrnl"} <= set(tmux.modes().replace(";", " ").split())


async def test_an_editor(tmux: Tmux, server: Server) -> None:
    """A text is written, saved and read; a larger window gives the editor more lines, and the shell its size."""
    await in_a_shell(tmux, server)
    assert {"-icanon", "-echo", "-isig"} <= set(tmux.modes().split())
    tmux.line("vi -u NONE note")
    await tmux.until("~\n~\n~")
    tmux.type("i")
    tmux.line("first line")
    tmux.line("second line")
    tmux.type("Escape")
    tmux.resize(40, 100)
    await tmux.until("\n~" * 35)
    tmux.line(":wq")
    await tmux.until("remote>")
    tmux.line("clear; cat note; stty size")
    assert "first line\nsecond line\n" in await tmux.until("40 100")
    await leave(tmux, 7)


async def test_keys_that_are_signals(tmux: Tmux, server: Server) -> None:
    """Ctrl-C and Ctrl-Z are the job's: the client lives on, and nothing on this host stops."""
    await in_a_shell(tmux, server)
    tmux.line("sh -c 'echo up1''; exec sleep 1000'")
    await tmux.until("\nup1\n")
    tmux.type("C-c")
    tmux.line("echo interrupted=$?")
    await tmux.until("interrupted=130")
    tmux.line("sh -c 'echo up2''; exec sleep 1000'")
    await tmux.until("\nup2\n")
    tmux.type("C-z")
    await tmux.until("Stopped")
    tmux.line("jobs; kill %1; wait; clear; echo all''gone")
    await tmux.until("allgone")
    await leave(tmux, 3)


async def test_detaching_and_attaching(tmux: Tmux, tmp_path: Path, certificates: Path) -> None:
    """Ctrl-P Ctrl-Q leaves the job, in the middle of an editor, whose screen is there again, over a server that was killed."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        await in_a_shell(tmux, server)
        tmux.line("vi -u NONE note")
        await tmux.until("~\n~\n~")
        tmux.type("i")
        tmux.line("written before")
        await tmux.until("written before")
        tmux.type("C-p", "C-q")
        await tmux.until("detached; the job goes on")
        tmux.line("clear; echo status=$?")
        await tmux.until("status=0")
        assert_cooked(tmux)
        (record,) = [record async for record in jobs.list()]
        for text in ("written next", "written last"):
            tmux.clear()
            tmux.line(jobmaster(server, "attach", record.job_id_response.job_id))
            await tmux.until("written before")
            old = server.pid
            os.kill(old, signal.SIGKILL)
            await wait_for_successor(server, old)
            tmux.line(text)
            await tmux.until(text)
            tmux.type("C-p", "C-q")
            await tmux.until("detached; the job goes on")
        tmux.clear()
        tmux.line(jobmaster(server, "attach", record.job_id_response.job_id))
        await tmux.until("written before")
        tmux.type("Escape")
        tmux.line(":wq")
        await tmux.until("remote>")
        tmux.line("clear; grep -c written note")
        await tmux.until("3\nremote>")
        await leave(tmux, 5)
        assert (await jobs.wait(record.job_id_response.job_id)).exit_code == 5


RUN: Final = ("run", "-t", "sh", "-c", "echo up; exec sleep 1000")


@pytest.mark.parametrize(
    ("verb", "number", "status"),
    [
        ("run", signal.SIGHUP, 129),
        ("run", signal.SIGTERM, 143),
        ("attach", signal.SIGINT, 130),
        ("attach", signal.SIGQUIT, 131),
    ],
)
async def test_a_client_that_is_ended(
    tmux: Tmux, server: Server, verb: str, number: signal.Signals, status: int
) -> None:
    """Whatever ends it leaves the terminal as it was before; the job goes on, but for a stop that `run` is asked for."""
    is_stopped = verb == "run" and number != signal.SIGHUP
    async with server.connect() as jobs:
        await tmux.until("local>")
        if verb == "run":
            tmux.line(jobmaster(server, *RUN))
        else:
            job_id = await jobs.start(*RUN[2:], terminal=pb.Terminal())
            tmux.line(jobmaster(server, "attach", "--from-start", job_id))
        await tmux.until("\nup\n")
        os.kill(tmux.child(), number)
        await tmux.until("\nlocal>")
        tmux.line("echo status=$?")
        await tmux.until(f"status={status}")
        assert_cooked(tmux)
        (record,) = [record async for record in jobs.list()]
        assert (record.state == pb.JOBSTATE_RUNNING) == (not is_stopped)
        await jobs.stop(record.job_id_response.job_id, force=True)
