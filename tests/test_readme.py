"""The README cannot drift: its commands are run, its options exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.audit.entry import KEPT_CHARACTERS, Begun, Call, Caller, Command, Entry, JobChange, encode
from jobmaster.audit.handshakes import ENTRIES_A_MINUTE, ENTRIES_OF_ADDRESS
from jobmaster.audit.trail import MAX_QUEUED, MAX_QUEUED_BYTES, START_SECONDS
from jobmaster.identity.policy import DEFAULT_POLICY
from jobmaster.journal.ballast import BALLAST_BYTES
from jobmaster.server.client_schema import CLIENT_KEYS
from jobmaster.server.schema import BY_KEY, read_settings
from tests.audit.test_entry import FIELDS
from tests.harness import REPOSITORY, cgroup_mount, serving

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def console_commands() -> list[tuple[str, bool]]:
    """Every command shown at a prompt, and whether the README shows it failing."""
    found = []
    for block in blocks("console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = step.partition("\n")
            found.append((command, output.startswith("jobmaster: ")))
    return found


def test_tests_command_is_what_ci_runs() -> None:
    """The README's second command is, word for word, what .ci/run does, with Debian's own Python where there is one."""
    _demo, tests = blocks("sh")
    ci = (REPOSITORY / ".ci" / "run").read_text().replace('"$python"', "python3")
    make, install, nox = tests.strip().replace("install -q", "install --quiet").split(" && ")
    assert [line for line in ci.splitlines() if line.endswith((make, install, nox))] == [make, install, f"exec {nox}"]


async def test_demo_command() -> None:
    """What the README's first command ends in runs the main job and exits 0."""
    cgroup_mount()
    demo, _tests = blocks("sh")
    assert demo.strip().endswith("nox -s demo")
    assert 'session.run("python", "tests/demo.py"' in (REPOSITORY / "noxfile.py").read_text()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = await trio.run_process(
        [sys.executable, "tests/demo.py"], capture_stdout=True, check=False, cwd=REPOSITORY, env=environment
    )
    assert result.returncode == 0, result.stdout.decode()


async def test_console_commands(tmp_path: Path, certificates: Path) -> None:
    """Every command shown at a prompt runs in order, in one shell, and fails exactly where the README shows it fail."""
    shutil.copytree(certificates, tmp_path / "certs", ignore=shutil.ignore_patterns("hostile"))
    (tmp_path / "proto").symlink_to(REPOSITORY / "proto")
    serve, *commands = console_commands()
    assert serve[0].startswith("python -m jobmaster.serve")
    options = serve[0].split()[3:]
    async with serving(tmp_path, tmp_path / "certs", *options) as server:
        script = [
            f'jobmaster() {{ {sys.executable} -m jobmaster --server localhost:{server.port} --certs-dir certs "$@"; }}'
        ]
        script += [f'python() {{ {sys.executable} "$@"; }}']
        for command, fails in commands:
            line = command.replace("localhost:6443", f"localhost:{server.port}")
            script.append(f"{'! ' if fails else ''}{line} || {{ echo {len(script)} >&2; exit 1; }}")
        result = await trio.run_process(
            ["bash", "-c", "\n".join(script)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
    assert result.returncode == 0, f"{result.stdout.decode()}\n{result.stderr.decode()}"


async def test_python_example(tmp_path: Path, certificates: Path) -> None:
    """The Python example runs as it stands and shows a job's output and end."""
    (example,) = blocks("python")
    shutil.copytree(certificates, tmp_path / "certs", ignore=shutil.ignore_patterns("hostile"))
    async with serving(tmp_path, tmp_path / "certs") as server:
        result = await trio.run_process(
            [sys.executable, "-c", example.replace("6443", str(server.port))],
            capture_stdout=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
    assert b"exited with code 0" in result.stdout
    assert b"Linux" in result.stdout


def test_options_exist() -> None:
    """Each option of the server is in its --help, and the README names none that is not."""
    result = subprocess.run(
        [sys.executable, "-m", "jobmaster.serve", "--help"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    section = README.partition("## The server")[2].partition("## The client")[0]
    named = set(re.findall(r"`(?:-\w`, `)?(--[a-z-]+)", section)) - {"--help"}
    assert named
    assert named <= set(re.findall(r"--[a-z-]+", result.stdout))


def test_the_configuration_is_one() -> None:
    """The example of a configuration loads, and the table beside it has the keys that there are, and no others."""
    (example,) = blocks("toml")
    assert {each.name for each in (read_settings(example).policy or DEFAULT_POLICY).identities} == {"ci", "ann"}
    table = README.partition("| table | keys |")[2].partition("\n\n")[0]
    named = set()
    for line in table.splitlines()[2:]:
        head, keys = line.strip("| ").split(" | ", 1)
        prefix = "" if head == "(none)" else f"{head.strip('`[]')}."
        named |= {f"{prefix}{key}" for key in re.findall(r"`(\w+)`", keys)}
    of_clients = {name for name in named if name.startswith("clients.")}
    assert named - of_clients == set(BY_KEY)
    assert {name.removeprefix("clients.NAME.") for name in of_clients} == set(CLIENT_KEYS)


def test_files_exist() -> None:
    """Every file that the README sends a reader to is there."""
    paths = re.findall(r"`(jobmaster/[\w/]+\.py)`", README)
    assert paths
    assert [path for path in paths if not (REPOSITORY / path).is_file()] == []


SECTION: Final = README.partition("## The audit")[2].partition("## How it works")[0]


def test_audit_example_is_what_the_code_writes() -> None:
    """Each line of the example is, byte for byte, what its entry becomes."""
    (example,) = blocks("json")
    begun, call, change = example.splitlines()
    caller = Caller(
        client="client1",
        serial="56637a1836bbb7b6f50dab60139e29c1cb527453",
        fingerprint="d70d6f1f62f141845dc68b88263b6ea8c805b43da7db3dc342f78838955c1353",
        peer="127.0.0.1:46594",
    )
    asked = {"caller": caller, "method": "jobmaster.jobs.v1.JobService/Start", "command": Command(("sleep", "1000"))}
    job = "3MmEfnxT9UObYv7lmYDMwKM3Rmn"

    def at(microsecond: int) -> datetime:
        return datetime(2026, 11, 29, 10, 17, 28, microsecond, UTC)

    written = [
        encode(Begun(at=at(937661), **asked), 2),  # type: ignore[arg-type]  # as a dict has them
        encode(Call(at=at(960906), job=job, outcome="OK", seconds=0.023456, **asked), 3, begun=2),  # type: ignore[arg-type]
        encode(JobChange(journal_sequence=1, at=at(951528), client="client1", job=job, event="launched"), 4),
    ]
    assert [begun, call, change] == [line.decode().rstrip("\n") for line in written]


@pytest.mark.parametrize(("entry", "kind", "names"), FIELDS, ids=[kind for _, kind, _ in FIELDS])
def test_audit_fields_are_documented(entry: Entry, kind: str, names: list[str]) -> None:
    """The table has a row for each kind of entry, and that names each of its fields (of a beginning: those of a call)."""
    del entry
    (row,) = re.findall(rf"^\| `{kind}` \|.*$", SECTION, re.MULTILINE)
    (of_call,) = re.findall(r"^\| `call` \|.*$", SECTION, re.MULTILINE)
    told = set(re.findall(r"`(\w+)`", row if kind != "begun" else row + of_call)) | {"time"}
    assert set(names) <= told


def test_audit_bounds_are_documented() -> None:
    """The numbers of the section are the code's."""
    for words in (
        f"within {START_SECONDS:.0f} s",
        f"{MAX_QUEUED:,} of them, {MAX_QUEUED_BYTES // 2**20} MiB",
        f"a ballast of {BALLAST_BYTES // 2**20} MiB",
        f"{KEPT_CHARACTERS:,} characters",
        f"at most {ENTRIES_A_MINUTE} entries a minute, {ENTRIES_OF_ADDRESS} of them for one address",
    ):
        assert words in " ".join(SECTION.split()), words
