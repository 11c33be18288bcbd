"""The launcher as the parent of a server; small programs play the server."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

import jobmaster.launcher
from jobmaster.launcher import packets, protocol
from jobmaster.launcher.protocol import ENVIRONMENT_VARIABLE

LAUNCHER: Final = (sys.executable, "-I", "-S", str(Path(jobmaster.launcher.__file__).parent))
DEADLINE: Final = 60
SAY_SIGNALS: Final = """
import os, signal, sys
def say(number, frame):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")  # a print may be under way
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2):
    signal.signal(number, say)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
print("ready", flush=True)
for line in sys.stdin:
    sys.exit(int(line))
"""


def run(*command: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Runs a launcher to its end."""
    return subprocess.run([*LAUNCHER, *command], capture_output=True, timeout=DEADLINE, check=False, **options)  # type: ignore[call-overload,no-any-return]  # options of any type


def run_python(script: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Runs a launcher whose server is this script."""
    return run("--", sys.executable, "-c", script, **options)


@contextmanager
def serving(script: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A launcher whose server is this script and has said "ready"."""
    with subprocess.Popen(
        [*LAUNCHER, "--", sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]  # options of any type
    ) as launcher:
        try:
            assert launcher.stdout.readline() == "ready\n"
            yield launcher
        finally:
            launcher.kill()


@pytest.mark.parametrize("code", [0, 2, 143])
def test_the_servers_exit_status_is_the_launchers(code: int) -> None:
    """What the server exits with, and what it writes, comes through; the launcher adds nothing."""
    ended = run_python(f"import sys; print('out'); print('err', file=sys.stderr); sys.exit({code})")
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, b"out\n", b"err\n")


def test_a_server_that_was_killed() -> None:
    """128 and the signal, as shells say it, and a line that says it in words."""
    ended = run_python("import os; os.kill(os.getpid(), 9)")
    assert ended.returncode == 128 + signal.SIGKILL
    assert b"killed by signal 9" in ended.stderr


def test_a_server_that_does_not_die() -> None:
    """A server that has closed its socket and lives on is killed in the end, which is said and no success."""
    script = f"import os, time; os.close(int(os.environ['{ENVIRONMENT_VARIABLE}'])); time.sleep({DEADLINE * 2})"
    program = f"""
import sys
from jobmaster.launcher import program, servers
servers.END_SECONDS = 0.5
sys.exit(program.main(["--", sys.executable, "-c", {script!r}]))
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False)
    assert ended.returncode == 128 + signal.SIGKILL
    assert ended.stderr.startswith(b"jobmaster: the server has not died within 0.5 s of its end")


STUCK: Final = f"""
import array, fcntl, os, signal, socket, termios, threading
from pathlib import Path
from jobmaster.launcher import packets, protocol

def until_waits(task, *, for_the_lock):
    while ("pipe" in (where := Path(task, "wchan").read_text())) != for_the_lock or where == "0":
        pass

sock = socket.socket(fileno=int(os.environ["{ENVIRONMENT_VARIABLE}"]))
packets.send(sock, protocol.encode(protocol.Ready(max_gap=MAX_GAP)), [])
read, write = os.pipe()
idle, peer = socket.socketpair()
holder = os.fork()
if holder == 0:
    sock.close()
    os.dup2(0, 1), os.dup2(0, 2)
    while True:
        os.splice(idle.fileno(), write, 65536)
until_waits(f"/proc/{{holder}}", for_the_lock=False)
thread = threading.Thread(target=lambda: fcntl.ioctl(read, termios.FIONREAD, array.array("i", [0])))
thread.start()
until_waits(f"/proc/self/task/{{thread.native_id}}", for_the_lock=True)
print(os.getpid(), holder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A server a thread of which waits for a lock that no job holds when it dies."""
HUNG: Final = f"""
import os, signal, socket, sys
from pathlib import Path
from jobmaster.launcher import packets, protocol

sock = socket.socket(fileno=int(os.environ["{ENVIRONMENT_VARIABLE}"]))
Path(FILE).touch()
number = Path(FILE).stat().st_size
Path(FILE).write_bytes(bytes(number + 1))
if number == 0:
    packets.send(sock, protocol.encode(protocol.Ready(max_gap=1000)), [])
    os.kill(os.getpid(), signal.SIGKILL)
if number == 1:
    signal.pause()
packets.send(sock, protocol.encode(protocol.Farewell()), [])
"""
"""The first server dies, the second hangs before it is ready, the third ends the jobs."""
IMPATIENT: Final = """
import sys
from jobmaster.launcher import program, servers
program.END_SECONDS = servers.END_SECONDS = 1.0
servers.READY_SECONDS = 2.0
servers.LOOK_SECONDS = 0.05
sys.exit(program.main(["--", sys.executable, "-c", sys.argv[1]]))
"""


@pytest.mark.parametrize("is_told", [False, True])
def test_a_dead_server_that_is_left_in_the_kernel(is_told: bool) -> None:  # a parameter
    """It cannot be reaped, and no other one follows: the gap, or a signal to end, ends the launcher; what is left is named."""
    script = STUCK.replace("MAX_GAP", "1000" if is_told else "1")
    with subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout is not None
        assert launcher.stderr is not None
        server, holder = map(int, launcher.stdout.readline().split())
        try:
            if is_told:
                assert "is left in the kernel (pipe_ioctl)" in launcher.stderr.readline()
                launcher.send_signal(signal.SIGTERM)
            assert launcher.wait(DEADLINE) == 1
        finally:
            os.kill(holder, signal.SIGKILL)
        said = launcher.stderr.read()
    why = "cannot be followed by another one" if is_told else "no server has been ready for 1 s"
    assert f"{why}" in said
    assert f"processes are left 1 s after SIGKILL: {server} (" in said


def test_a_next_server_that_hangs(tmp_path: Path) -> None:
    """One that never gets ready is killed and followed by another, whose program may be a better one by then."""
    command = [sys.executable, "-c", IMPATIENT, HUNG.replace("FILE", repr(str(tmp_path / "started")))]
    ended = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False, text=True)
    assert ended.returncode == 0
    (line,) = (line for line in ended.stderr.splitlines() if "not ready" in line)
    assert line.startswith("jobmaster: the server was not ready 2 s after its start, and was killed; its jobs go on")


def test_a_server_that_cannot_be_executed() -> None:
    """The program is named, and there is no traceback."""
    ended = run("--", "/nonexistent/python")
    assert ended.returncode == 127
    assert ended.stderr == b"jobmaster: cannot run /nonexistent/python: No such file or directory\n"


@pytest.mark.parametrize("arguments", [(), ("--",), ("--attached",), ("--attached", "x"), ("--attached", "99"), ("x",)])
def test_wrong_arguments(arguments: tuple[str, ...]) -> None:
    """One line that says what is wrong, and status 2."""
    ended = run(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith((b"usage: ", b"launcher: --attached 99: "))
    assert ended.stderr.count(b"\n") == 1


def test_signals_reach_the_server() -> None:
    """Each signal is passed on, a second one too. Those by which a terminal stops processes do nothing."""
    with serving(SAY_SIGNALS) as launcher:
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        for number, name in (
            (signal.SIGTERM, "SIGTERM"),
            (signal.SIGTERM, "SIGTERM"),
            (signal.SIGINT, "SIGINT"),
            (signal.SIGHUP, "SIGHUP"),
            (signal.SIGQUIT, "SIGQUIT"),
            (signal.SIGUSR2, "SIGUSR2"),
        ):
            launcher.send_signal(number)
            assert launcher.stdout.readline() == f"{name}\n"
        for number in (signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN):  # stops by a terminal
            launcher.send_signal(number)
        launcher.stdin.write("5\n")
        launcher.stdin.flush()
        assert launcher.wait(DEADLINE) == 5


def test_nohup() -> None:
    """A launcher that was started with SIGHUP ignored passes it on, and its server has default dispositions."""
    script = "for line in open('/proc/self/status'):\n if line.startswith('SigIgn'): print(line.split()[1], flush=True)"
    nohup = ["nohup", *LAUNCHER, "--", sys.executable, "-c", f"{script}{SAY_SIGNALS}"]
    with subprocess.Popen(nohup, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as launcher:
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        ignored = int(launcher.stdout.readline(), 16)
        assert launcher.stdout.readline() == b"ready\n"
        assert not ignored & 1 << (signal.SIGHUP - 1)
        launcher.send_signal(signal.SIGHUP)
        assert launcher.stdout.readline() == b"SIGHUP\n"
        launcher.stdin.close()
        assert launcher.wait(DEADLINE) == 0


def test_what_the_server_starts_with() -> None:
    """A session of its own, limits and OOM score of who started the launcher, the socket to it; signals still blocked."""
    script = f"""
import os, resource, signal, socket
print(os.getsid(0) == os.getpid(), resource.getrlimit(resource.RLIMIT_NOFILE)[0],
      open("/proc/self/oom_score_adj").read().strip(), *sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
      socket.socket(fileno=int(os.environ["{ENVIRONMENT_VARIABLE}"])).type, sorted(os.listdir("/proc/self/fd")))
"""
    ended = run_python(script, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)))
    score = Path("/proc/self/oom_score_adj").read_text().strip()
    blocked = f"{signal.SIGHUP:d} {signal.SIGINT:d} {signal.SIGUSR2:d} {signal.SIGTERM:d}"
    start = f"True 100 {score} {blocked} {socket.SOCK_SEQPACKET} "
    assert ended.stdout.decode().startswith(start), ended
    assert len(ended.stdout.decode()[len(start) :].split()) == 4  # 0, 1, 2 and the folder: the socket was collected


def test_closed_standard_streams() -> None:
    """A launcher that was started without standard streams keeps their numbers from what its children get."""
    script = f"import os; os._exit(int(os.environ['{ENVIRONMENT_VARIABLE}']) > 2)"
    command = " ".join(f"'{word}'" for word in (*LAUNCHER, "--", sys.executable, "-c", script.replace("'", '"')))
    assert subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], timeout=DEADLINE, check=False).returncode == 1


def test_an_orphan_ends_with_the_server() -> None:
    """What a server leaves behind becomes the launcher's child and is killed, though it has a session of its own."""
    script = "import subprocess; print(subprocess.Popen(['sleep', '1000'], start_new_session=True, stdout=-3).pid)"
    ended = run_python(script)
    assert ended.returncode == 0
    assert not Path(f"/proc/{int(ended.stdout)}").exists()


def test_its_own_oom_score() -> None:
    """The launcher is the last to be killed for memory, where it may say so."""
    status = Path("/proc/self/status").read_text()
    if not int(status.partition("CapEff:\t")[2].split()[0], 16) & 1 << 24:
        pytest.skip("needs CAP_SYS_RESOURCE")
    with serving(SAY_SIGNALS) as launcher:
        assert Path(f"/proc/{launcher.pid}/oom_score_adj").read_text() == "-999\n"


# Attached: the test plays the server.


@contextmanager
def attached() -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A launcher and this end of its socket."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [*LAUNCHER, "--attached", str(other.fileno())]
    own.settimeout(DEADLINE)
    with own, subprocess.Popen(command, pass_fds=[other.fileno()], stderr=subprocess.PIPE) as launcher:
        other.close()
        try:
            yield launcher, own
        finally:
            launcher.kill()


def test_it_ends_with_the_other_end() -> None:
    """An attached launcher ends with 0 when the other end is closed."""
    with attached() as (launcher, sock):
        sock.close()
        assert launcher.wait(DEADLINE) == 0


def test_it_answers_hello_and_survives_nonsense() -> None:
    """What is no message, or none for it, is named on stderr and changes nothing; its descriptors are closed."""
    read, write = os.pipe()
    with attached() as (launcher, sock):
        socket.send_fds(sock, [b"nonsense"], [write])
        socket.send_fds(sock, [protocol.encode(protocol.Executed(id="a"))], [write])
        socket.send_fds(sock, [b"x" * (protocol.MAX_MESSAGE_BYTES + 1)], [write])
        socket.send_fds(sock, [protocol.encode(protocol.Ack(id="unknown"))], [write])
        assert protocol.decode(sock.recv(65536)) == protocol.Forgotten(id="unknown")
        sock.send(protocol.encode(protocol.Hello()))
        assert protocol.decode(sock.recv(65536)) == protocol.Hello()
        os.close(write)
        assert os.read(read, 1) == b""
        sock.close()
        assert launcher.wait(DEADLINE) == 0
        assert launcher.stderr is not None
        assert launcher.stderr.read().count(b"launcher: ") == 3
    os.close(read)


def test_an_attached_launcher_is_not_followed() -> None:
    """It tells so, keeps no listening socket, and ends with its server though that was ready."""
    read, write = os.pipe()
    with attached() as (launcher, sock):
        sock.send(protocol.encode(protocol.Hello()))
        assert protocol.decode(sock.recv(65536)) == protocol.Hello()
        assert protocol.decode(sock.recv(65536)) == protocol.TableEnd(predecessors=0, is_followed=False)
        packets.send(sock, protocol.encode(protocol.Ready(listeners=("a",))), [write])
        os.close(write)
        assert os.read(read, 1) == b""
        sock.close()
        assert launcher.wait(DEADLINE) == 0
    os.close(read)


def test_what_is_kept_without_a_name() -> None:
    """Descriptors and names that do not fit are said, and what has no name is closed."""
    read, write = os.pipe()
    with attached() as (launcher, sock):
        packets.send(sock, protocol.encode(protocol.Keep(locks=("jobs",))), [sock.fileno(), write, write])
        packets.send(sock, protocol.encode(protocol.Keep()), [])
        sock.send(protocol.encode(protocol.Hello()))
        assert protocol.decode(sock.recv(65536)) == protocol.Hello()
        os.close(write)
        assert os.read(read, 1) == b""
        sock.close()
        launcher.wait(DEADLINE)
        assert launcher.stderr is not None
        assert launcher.stderr.read() == b"launcher: 2 descriptors came for jobs\n"
    os.close(read)


@pytest.mark.parametrize("count", range(4))
def test_a_start_without_its_descriptors(count: int) -> None:
    """A start with too few descriptors is refused, and what came with it is closed."""
    start = protocol.Start(
        id="a", umask=0, open_files=64, nice=0, oom_score_adj=0, argument_count=1, strings=b"/\0true\0"
    )
    read, write = os.pipe()
    with attached() as (_, sock):
        packets.send(sock, protocol.encode(start), [write] * count)
        assert protocol.decode(sock.recv(65536)) == protocol.Refused(id="a", errno=22)
        os.close(write)
        assert os.read(read, 1) == b""
    os.close(read)


def test_a_server_that_does_not_read() -> None:
    """Answers that the socket does not take are kept in order, and other things go on meanwhile."""
    start = protocol.Start(id="a", umask=0, open_files=64, nice=0, oom_score_adj=0, argument_count=1)
    with attached() as (launcher, sock):
        count = 0
        sock.setblocking(False)
        while count < 5000:
            try:
                packets.send(sock, protocol.encode(start), [])
            except BlockingIOError:
                break  # the launcher reads no more before its answers are read
            count += 1
        assert count < 5000
        sock.setblocking(True)
        answers = [protocol.decode(sock.recv(65536)) for _ in range(count)]
        assert set(answers) == {protocol.Refused(id="a", errno=22)}
        sock.send(protocol.encode(protocol.Hello()))
        assert protocol.decode(sock.recv(65536)) == protocol.Hello()
        sock.close()
        assert launcher.wait(DEADLINE) == 0
