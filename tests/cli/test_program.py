"""The program before it talks to a server: what it imports, what ends it, and where its words go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from jobmaster import __version__
from tests.harness import REPOSITORY

CALLS_NEED: Final = {"trio", "google.protobuf", "ssl"}
NEVER_NEEDED: Final = {"cryptography", "jobmaster.server", "jobmaster.run", "jobmaster.host", "jobmaster.api"}
OF_OTHER_VERBS: Final = {
    "jobmaster.cli.listing",
    "jobmaster.cli.tables",
    "jobmaster.cli.copying",
    "jobmaster.cli.running",
    "jobmaster.cli.auditing",
    "jobmaster.audit",
}

USAGE: Final = ["-n", "client1", "dance"]


def run(program: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs a Python program that may import the package."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, **options)  # type: ignore[call-overload, no-any-return]  # options of run


def imported_by(*arguments: str) -> set[str]:
    """The modules that are there when a command line has been done."""
    done = run(f"""
import sys
from jobmaster.cli import main
try:
    main({list(arguments)})
except SystemExit:
    print("\\n#", *sys.modules)
""")
    return set(done.stdout.rpartition("#")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], USAGE, ["-n", "client1", "status", "--help"]])
def test_what_needs_no_server_imports_nothing_for_it(arguments: list[str]) -> None:
    """Help, version and wrong usage import no event loop, no protobuf, no purerpc, no TLS, no cryptography, no JSON."""
    imported = imported_by(*arguments)
    assert "jobmaster.cli.arguments" in imported
    assert imported & (CALLS_NEED | NEVER_NEEDED | {"json", "purerpc", "jobmaster.cli.verbs"}) == set()


@pytest.mark.parametrize(
    "arguments",
    [["status", "x"], ["start", "x"], ["logs", "x"], ["run", "x"], ["wait", "x"], ["stop", "x"], ["rm", "x"], ["list"]],
)
def test_calls_import_nothing_of_the_servers(certificates: Path, arguments: list[str]) -> None:
    """A call, up to its refused connection, imports neither cryptography nor JSON nor anything of the server's."""
    target = ["-n", "client1", "--server", "127.0.0.1:1", "--certs-dir", str(certificates)]
    imported = imported_by(*target, *arguments)
    assert imported >= CALLS_NEED
    assert imported & (NEVER_NEEDED | {"json", "google.rpc", *OF_OTHER_VERBS}) == set()


INTERRUPTED_AT_IMPORT: Final = """
import signal, sys

def interrupt(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        signal.raise_signal(signal.SIGINT)

sys.addaudithook(interrupt)
from jobmaster.cli import main
main({arguments})
"""


@pytest.mark.parametrize(
    "module",
    ["jobmaster.cli.program", "argparse", "trio", "ssl", "_ssl", "google.protobuf.message", "jobmaster.client"],
)
def test_interrupted_at_the_start(module: str) -> None:
    """Ctrl-C while the program still imports ends it with 130 and without a word."""
    program = INTERRUPTED_AT_IMPORT.format(module=module, arguments=["-n", "client1", "status", "x"])
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_that_was_ignored_stays_ignored(certificates: Path) -> None:
    """Under a parent that has it ignored, as a script has in the background, Ctrl-C ends nothing."""
    arguments = ["-n", "client1", "--server", "127.0.0.1:1", "--certs-dir", str(certificates), "status", "x"]
    program = INTERRUPTED_AT_IMPORT.format(module="trio", arguments=arguments)
    done = run(f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{program}")
    assert done.returncode == 1
    assert "cannot connect to 127.0.0.1:1" in done.stderr


def shell(script: str, *arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """Runs a shell script in which `jobmaster` is the program; the arguments are $1 and so on."""
    script = f'jobmaster() {{ {sys.executable} -m jobmaster "$@"; }}\n{script}'
    command = ["bash", "-c", script, "bash", *arguments]
    return subprocess.run(command, capture_output=True, check=False, cwd=REPOSITORY)


@pytest.mark.parametrize("arguments", ["--help", "--version"])
@pytest.mark.parametrize(
    ("redirection", "words"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_output_that_goes_nowhere(arguments: str, redirection: str, words: str) -> None:
    """A text that standard output did not take is a failure that says why, and no traceback."""
    done = shell(f"jobmaster {arguments} {redirection}")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"jobmaster: standard output: {words}\n"


def test_too_few_descriptors(certificates: Path) -> None:
    """Where the limit of open files leaves none for an event loop, that is said, without a traceback."""
    done = shell('ulimit -n 5; jobmaster --certs-dir "$1" -n client1 list', str(certificates))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"jobmaster: the system does not give what is needed: Too many open files\n"


def test_a_reader_that_has_seen_enough() -> None:
    """A pipe whose reader has gone ends the program without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "jobmaster", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, cwd=REPOSITORY)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("arguments", [USAGE, ["-n", "client1", "--certs-dir", "/nowhere", "status", "x"]])
def test_no_complaint_on_standard_output(arguments: list[str]) -> None:
    """Where standard error is closed a complaint is lost; it does not go among the data."""
    done = shell('jobmaster "$@" 2>&-', *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([b"start", b"ls", b"\xff"], "argument 1 of the command, '\\udcff', is not UTF-8"),
        ([b"rm", b"x", b"\xc3("], "JOB, '\\udcc3(', is not UTF-8"),
        ([b"status", b"\xc3("], "JOB, '\\udcc3(', is not UTF-8"),
        ([b"--server", b"\xff:1", b"status", b"x"], "'\\udcff' is no host name"),
        ([b"--certs-dir", b"/nowhere\xff", b"status", b"x"], "/nowhere\\udcff/server_ca_cert.pem is missing"),
    ],
)
def test_bytes_that_are_no_text(arguments: list[bytes], words: str) -> None:
    """Arguments that are not UTF-8 are refused by name, with exit status 2 and without a traceback."""
    done = shell('jobmaster -n client1 "$@"', *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr


ENDS: Final = """
import atexit, sys
from jobmaster.cli import main
atexit.register(print, "taken apart")
sys.argv = ["jobmaster", "--version"]
main()
"""


def test_the_end() -> None:
    """The process of a command ends at once, with its status, and its output is there."""
    done = run(ENDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"jobmaster {__version__}\n", "")


NO_THREADS: Final = """
import sys, threading
def refuse(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
from jobmaster.cli import main
main(sys.argv[1:])
"""
BUG: Final = """
import sys
from jobmaster.cli import verbs, main
def perform(command):
    raise KeyError("nobody expects it")
verbs.perform = perform
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("verb", "status"), [("run", 125), ("status", 1)])
@pytest.mark.parametrize(("program", "words"), [(NO_THREADS, "no thread left"), (BUG, "a bug in the client")])
def test_what_nobody_expects(certificates: Path, program: str, words: str, verb: str, status: int) -> None:
    """Without a thread to be had, or with a bug, the client says so in a line, and its status is never taken for a job's."""
    arguments = ["--certs-dir", str(certificates), "-n", "client1", verb, "x"]
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert words in done.stderr
