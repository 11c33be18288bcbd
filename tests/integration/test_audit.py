"""The audit of a real server: every call of a script, once, in order, with its outcome."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from purerpc.grpclib.exceptions import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    RpcFailedError,
    UnavailableError,
)

from jobmaster.audit.names import HANDSHAKES
from jobmaster.errors import TransportError
from jobmaster.grpc.channel import open_channel
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.jobs.v1.jobs_grpc import JobServiceStub
from jobmaster.server import program
from tests.audit.entries import entries_in
from tests.certs.hostile_certificates import make
from tests.harness import (
    Server,
    first_chunk,
    options_for,
    output_of,
    own_cgroup_root,
    serving,
    serving_program,
    until_output,
)
from tests.integration.test_adoption import wait_for_successor
from tests.integration.test_grpcurl import about, command_line

DEADLINE: Final = 60.0
ON_SMALL_DISK: Final = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mkdir -p "$0" && mount -t tmpfs -o size=6m,mode=700 none "$0" && exec "$@"',
)


def told(folder: Path, client: str | None = "client1") -> list[tuple[str, str]]:
    """The methods and outcomes of a client's calls."""
    return [
        (str(entry["method"]).rpartition("/")[2], entry["outcome"])
        for entry in entries_in(folder)
        if entry["kind"] == "call" and entry["client"] == client
    ]


def no_number_is_missing(folder: Path) -> bool:
    """Whether the entries' numbers have no hole, and none is there twice."""
    numbers = [entry["sequence"] for entry in entries_in(folder)]
    return numbers == list(range(1, len(numbers) + 1))


async def fails(kind: type[Exception], call: Callable[[], Any]) -> None:
    """A call that is refused."""
    with pytest.raises(kind):
        await call()


async def test_every_call_of_a_script(tmp_path: Path, certificates: Path) -> None:
    """Allowed or refused, by our client or another's, long or short: once, in order, with its outcome, job and command."""
    audit = tmp_path / "output" / "audit"
    async with serving(tmp_path, certificates, "--max-jobs", "4") as server:  # one of each client
        async with server.connect(patience=0) as jobs:
            job_id = await jobs.start("sh", "-c", "echo ready; sleep 1000")
            await first_chunk(jobs, job_id)
            await until_told(audit, "call", "FollowOutput")  # the server hears of a caller who leaves a moment later
            await jobs.status(job_id)
            await fails(NotFoundError, partial(jobs.status, "nope"))
            await fails(ResourceExhaustedError, partial(jobs.start, "true"))
            await fails(InvalidArgumentError, partial(jobs.start, "x\0"))
            await jobs.stop(job_id, "enough")
            await jobs.wait(job_id)
            await fails(FailedPreconditionError, partial(jobs.start, "/no/such/program"))
            await output_of(jobs, job_id)
            assert [record async for record in jobs.list(pb.ListRequest())]
            await until_told(audit, "job", "finished")  # the events of a removed job are no longer there to be copied
            await jobs.remove(job_id)
        async with server.connect("client2", patience=0) as jobs:
            await fails(NotFoundError, partial(jobs.stop, job_id))
        for method, request in (("Nope", {}), ("Status", about(job_id))):
            line = command_line(server, "Status" if method == "Nope" else method, request, name="client3")
            line[-1] = line[-1].replace("Status", method)
            await trio.run_process(line, capture_stdout=True, capture_stderr=True, check=False)
    assert told(audit) == [
        ("Start", "OK"),
        ("FollowOutput", "CANCELLED"),
        ("Status", "OK"),
        ("Status", "NOT_FOUND"),
        ("Start", "RESOURCE_EXHAUSTED"),
        ("Start", "INVALID_ARGUMENT"),
        ("Stop", "OK"),
        ("Wait", "OK"),
        ("Start", "FAILED_PRECONDITION"),
        ("FollowOutput", "OK"),
        ("List", "OK"),
        ("Remove", "OK"),
    ]
    assert told(audit, "client2") == [("Stop", "NOT_FOUND")]
    assert told(audit, "client3") == [("Status", "NOT_FOUND")]  # grpcurl knows that there is no Nope
    found = entries_in(audit)
    starts = [entry for entry in found if entry["kind"] == "call" and entry["method"].endswith("/Start")]
    assert [(entry["job"], entry["command"]) for entry in starts] == [
        (job_id, ["sh", "-c", "echo ready; sleep 1000"]),
        (None, ["true"]),
        (None, ["x\0"]),
        (None, ["/no/such/program"]),
    ]
    begun = {entry["sequence"]: entry for entry in found if entry["kind"] == "begun"}
    assert all(begun[entry["begun"]]["method"] == entry["method"] for entry in starts)
    changes = [(entry["event"], entry["by"]) for entry in found if entry["kind"] == "job" and entry["job"] == job_id]
    assert changes[:3] == [("launched", None), ("executed", None), ("stop_ordered", "client1")]
    assert changes[-2:] == [("finished", None), ("removed", None)]
    assert no_number_is_missing(audit)


SECRET: Final = "hunter2hunter2"


def files_with(folder: Path, text: bytes) -> set[str]:
    """The files in a folder that have a text."""
    return {path.name for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()}


async def test_a_secret_is_in_nothing_that_is_kept(tmp_path: Path, certificates: Path) -> None:
    """The process gets it; journal, audit, log, records and events have ***, also of the next server and of what is not found."""
    output = tmp_path / "output"
    argv = ("sh", "-c", "echo ${#1}; sleep 1000", "x", f"me:{SECRET}")
    masked = ["-c", "echo ${#1}; sleep 1000", "x", "me:***"]
    with (tmp_path / "stderr").open("wb") as stderr:
        async with (
            serving_program(tmp_path, certificates, "--verbose", stderr=stderr.fileno()) as (server, _process),
            server.connect() as jobs,
        ):
            job_id = await jobs.start(*argv, request_id="r", secrets=[SECRET])
            assert await first_chunk(jobs, job_id) == b"17\n"
            with pytest.raises(FailedPreconditionError, match=r"command '/no/\*\*\*' not found"):
                await jobs.start(f"/no/{SECRET}", request_id="s", secrets=[SECRET])
            with pytest.raises(InvalidArgumentError, match="NUL"):
                await jobs.start("ls", f"{SECRET}\0", secrets=[SECRET])
            assert list((await jobs.status(job_id)).cmd.args) == masked
            old = server.pid
            os.kill(old, signal.SIGKILL)
            await wait_for_successor(server, old)
            assert await jobs.start(*argv, request_id="r", secrets=[SECRET]) == job_id
            with pytest.raises(FailedPreconditionError, match=r"command '/no/\*\*\*' not found"):
                await jobs.start(f"/no/{SECRET}", request_id="s", secrets=[SECRET])
            (record,) = [record async for record in jobs.list(pb.ListRequest(states=[pb.JOBSTATE_RUNNING]))]
            assert list(record.cmd.args) == masked
            async with jobs.watch(0) as events:
                launched = await anext(events)
            assert list(launched.launched.cmd.args) == masked
            await jobs.stop(job_id)
    assert files_with(tmp_path, SECRET.encode()) == set()
    assert files_with(tmp_path, b"me:***") >= {"audit.jsonl", "journal.db"}
    starts = [entry for entry in entries_in(output / "audit") if entry["kind"] == "call" and entry["command"]]
    assert {entry["command"][-1] for entry in starts} == {"me:***", "/no/***", "***\0"}


async def test_the_value_of_a_variable_is_in_nothing_that_is_kept(tmp_path: Path, certificates: Path) -> None:
    """The process gets it; journal, backup, audit, log, records and events have its name, also of the next server."""
    given = {"TOKEN": SECRET, "PATH": f"/{SECRET}:/usr/bin:/bin"}
    with (tmp_path / "stderr").open("wb") as stderr:
        async with (
            serving_program(tmp_path, certificates, "--verbose", stderr=stderr.fileno()) as (server, _process),
            server.connect() as jobs,
            server.connect("superuser") as admin,
        ):
            argv = ("sh", "-c", "echo ${#TOKEN}; sleep 1000")
            job_id = await jobs.start(*argv, request_id="r", environment=given, working_folder="/tmp")  # of the job
            assert await first_chunk(jobs, job_id) == b"14\n"
            for wrong in ({"JOBMASTER_X": SECRET}, {"A": f"{SECRET}\0"}):
                with pytest.raises(InvalidArgumentError):
                    await jobs.start("ls", environment=wrong)
            with pytest.raises(FailedPreconditionError, match="not found in the PATH that it was given"):
                await jobs.start("no-such-command", environment=given)
            with pytest.raises(InvalidArgumentError, match="more arguments or environment than the kernel takes"):
                await jobs.start("ls", environment={"A": SECRET * 10_000})
            old = server.pid
            os.kill(old, signal.SIGKILL)
            await wait_for_successor(server, old)
            renewed = given | {"TOKEN": "another"}
            assert await jobs.start(*argv, request_id="r", environment=renewed, working_folder="/tmp") == job_id
            with pytest.raises(AlreadyExistsError):
                await jobs.start(*argv, request_id="r", environment=given, working_folder="/usr")
            record = await jobs.status(job_id)
            assert (dict(record.cmd.environment), record.cmd.working_folder) == (dict.fromkeys(given, "***"), "/tmp")
            async with jobs.watch(0) as events:
                launched = await anext(events)
            assert dict(launched.launched.cmd.environment) == dict.fromkeys(given, "***")
            async with admin.backup() as pieces:
                (tmp_path / "backup").write_bytes(b"".join([piece async for piece in pieces]))
            await jobs.stop(job_id)
    assert files_with(tmp_path, SECRET.encode()) == set()
    assert files_with(tmp_path, b"TOKEN") >= {"journal.db", "backup"}


async def test_whom_the_server_does_not_know(tmp_path: Path, certificates: Path) -> None:
    """Each of its calls is refused and told, with its certificate; and a stranger's handshake in a file of its own."""
    audit = tmp_path / "output" / "audit"
    async with serving(tmp_path, certificates) as server:
        for row in ("unknown name", "expired"):
            with suppress(RpcFailedError, TransportError):
                async with open_channel("localhost", server.port, make(certificates, row).context()) as channel:
                    await JobServiceStub(channel).Status(pb.JobIDRequest())  # type: ignore[no-untyped-call]  # generated
    (call,) = [entry for entry in entries_in(audit) if entry["kind"] == "call"]
    assert (call["client"], call["outcome"]) == (None, "UNAUTHENTICATED")
    assert call["method"].endswith("/Status")
    known, *expired = [entry for entry in entries_in(audit, HANDSHAKES) if entry["kind"] == "handshake"]
    assert known["fingerprint"] == call["fingerprint"]
    assert expired  # once for each time that the client tried to connect
    assert {entry["fingerprint"] for entry in expired} == {None}
    assert all("expired" in entry["why"] for entry in expired)


async def test_calls_that_a_killed_server_cut_off(tmp_path: Path, certificates: Path) -> None:
    """They are told by the next one, as unknown; what our client repeats is another call; each change is there once."""
    audit = tmp_path / "output" / "audit"
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
        await until_output(jobs, job_id, b"ready\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.wait, job_id)
            await until_told(audit, "begun", "Wait")
            old = server.pid
            os.kill(old, signal.SIGKILL)
            await wait_for_successor(server, old)
            await jobs.stop(job_id, force=True)
        last = [entry["journal_sequence"] for entry in await until_told(audit, "job", "finished")]
    assert last == list(range(1, len(last) + 1))
    calls = Counter(told(audit))
    assert calls[("Wait", "unknown")] == 1
    assert calls[("Wait", "OK")] == 1
    assert calls[("Stop", "OK")] == 1
    opened = [entry["before"] for entry in entries_in(audit) if entry["kind"] == "opened"]
    assert opened == ["nothing", "cut off"]
    assert no_number_is_missing(audit)


def hold_up(audit: Path) -> Callable[[], None]:
    """Has who opens the file that is written wait; returns what ends that."""
    current, pipe, kept = audit / "audit.jsonl", audit.parent / "pipe", audit.parent / "kept"
    os.mkfifo(pipe)
    current.rename(kept) if current.exists() else kept.touch()
    current.hardlink_to(pipe)

    def answer() -> None:
        kept.replace(current)
        pipe.write_bytes(b"")  # whoever waits for it

    return answer


async def test_a_disk_that_does_not_answer_a_later_server(tmp_path: Path, certificates: Path) -> None:
    """It goes on with its jobs, starts none, and tells all when it can: in order, with what the server before has left."""
    audit = tmp_path / "output" / "audit"
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        first, second = [await jobs.start("sh", "-c", "echo ready; sleep 1000") for _ in range(2)]
        await jobs.status(first)
        await until_told(audit, "call", "Status")
        answer = hold_up(audit)
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await wait_for_successor(server, old)
        await until_output(jobs, first, b"ready\n")
        assert (await jobs.stop(first)).state == pb.JOBSTATE_TERMINATED_BY_API
        async with server.connect(patience=0) as impatient:
            with pytest.raises(UnavailableError, match="its disk does not answer, and so nothing is started"):
                await impatient.start("true")
        answer()
        await jobs.start("true")
        assert (await jobs.status(second)).state == pb.JOBSTATE_RUNNING
        await jobs.stop(second)
        await until_told(audit, "job", "finished")
    calls = Counter(told(audit))
    assert (calls[("Stop", "OK")], calls[("Status", "OK")]) == (2, 2)
    assert calls[("Start", "UNAVAILABLE")] >= 1
    assert calls[("Start", "OK")] == 3
    changes = [entry["journal_sequence"] for entry in entries_in(audit) if entry["kind"] == "job"]
    assert changes == list(range(1, len(changes) + 1))
    assert no_number_is_missing(audit)


async def test_the_end_of_a_server_whose_disk_does_not_answer(tmp_path: Path, certificates: Path) -> None:
    """SIGTERM ends it with status 0, and it says how much of the audit was not written."""
    audit = tmp_path / "output" / "audit"
    with (tmp_path / "stderr").open("wb") as stderr:
        async with (
            serving_program(tmp_path, certificates, stderr=stderr.fileno()) as (server, process),
            server.connect() as jobs,
        ):
            job_id = await jobs.start("sleep", "1000")
            hold_up(audit)
            old = server.pid
            os.kill(old, signal.SIGKILL)
            await wait_for_successor(server, old)
            await jobs.status(job_id)
    assert process.returncode == 0
    said = (tmp_path / "stderr").read_text()
    assert f"the audit folder {audit} cannot be used: its disk does not answer" in said
    assert re.search(r"entries of the audit were not written, the oldest of 20.*: 1 Call", said)


def test_a_disk_that_does_not_answer_a_first_server(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends with the status of a wrong option, and says what to do."""
    monkeypatch.setattr("jobmaster.audit.audit.OPEN_SECONDS", 0.2)
    audit = tmp_path / "output" / "audit"
    audit.mkdir(0o700, parents=True)
    audit.parent.chmod(0o700)
    hold_up(audit)
    with own_cgroup_root(may_be_left=True) as root:
        assert program._exit_status(options_for(tmp_path, certificates, root), ()) == 2
    assert "its disk does not answer; see to it, or name another --audit-folder" in capfd.readouterr().err


async def until_told(folder: Path, kind: str, what: str) -> list[dict[str, Any]]:
    """The entries of a kind, once one of them is of this method or event."""
    with trio.fail_after(DEADLINE):
        while True:
            found = [entry for entry in entries_in(folder) if entry["kind"] == kind]
            if any(what in {entry.get("event"), str(entry.get("method")).rpartition("/")[2]} for entry in found):
                return found
            await trio.sleep(0.02)


async def test_calls_that_were_answered_when_a_server_was_killed(tmp_path: Path, certificates: Path) -> None:
    """All of them are told, with their outcomes, though none was in a file yet; in their order, and before the next one's."""
    audit = tmp_path / "output" / "audit"
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect(patience=60) as jobs:
        await jobs.start("sleep", "1000")
        for number in range(30):
            await fails(NotFoundError, partial(jobs.status, f"{number:027d}"))
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await fails(NotFoundError, partial(jobs.status, f"{30:027d}"))
    entries = entries_in(audit)
    asked = [entry for entry in entries if entry["kind"] == "call" and entry["method"].endswith("/Status")]
    assert [(entry["job"], entry["outcome"]) for entry in asked] == [(f"{n:027d}", "NOT_FOUND") for n in range(31)]
    second = next(entry["sequence"] for entry in entries if entry.get("before") == "cut off")
    assert [entry["sequence"] < second for entry in asked] == [True] * 30 + [False]
    assert no_number_is_missing(audit)


async def test_calls_over_an_upgrade(tmp_path: Path, certificates: Path) -> None:
    """A call that the old server gave up is told as such, and the new one goes on where the old one stopped."""
    audit = tmp_path / "output" / "audit"
    async with serving_program(tmp_path, certificates) as (server, process), server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.wait, job_id)
            await until_told(audit, "begun", "Wait")
            old = server.pid
            process.send_signal(signal.SIGUSR2)
            await wait_for_successor(server, old)
            await jobs.stop(job_id)
    calls = Counter(told(audit))
    assert calls[("Wait", "OK")] == 1
    assert calls[("Wait", "UNAVAILABLE")] == 1
    assert ("Wait", "unknown") not in calls
    assert [entry["before"] for entry in entries_in(audit) if entry["kind"] == "opened"] == ["nothing", "closed"]
    assert no_number_is_missing(audit)


async def test_files_that_follow_each_other_under_load(tmp_path: Path, certificates: Path) -> None:
    """Of many calls of some clients none is lost, whatever file its entry is in."""
    audit = tmp_path / "elsewhere"
    options = ("--audit-folder", str(audit), "--audit-size", "64K", "--audit-files", "0")

    async def ask(server: Server, name: str) -> None:
        async with server.connect(name) as jobs:
            for number in range(300):
                await fails(NotFoundError, partial(jobs.status, f"{number:027d}"))

    async with serving(tmp_path, certificates, *options) as server, trio.open_nursery() as nursery:
        for name in ("client1", "client2", "client3"):
            nursery.start_soon(ask, server, name)
    assert len(list(audit.glob("audit-*.jsonl"))) > 1  # how many entries are written together, the load decides
    for name in ("client1", "client2", "client3"):
        own = [entry["job"] for entry in entries_in(audit) if entry["kind"] == "call" and entry["client"] == name]
        assert own == [f"{number:027d}" for number in range(300)]
    assert no_number_is_missing(audit)


async def test_a_full_disk(tmp_path: Path, certificates: Path) -> None:
    """It refuses Starts, in words that say why, and nothing else; all is told, and Starts are taken when there is space."""
    audit = tmp_path / "small"
    under = (*ON_SMALL_DISK, str(audit))
    async with (
        serving_program(tmp_path, certificates, "--audit-folder", str(audit), under=under) as (server, process),
        server.connect(patience=0) as jobs,
    ):
        inside = Path(f"/proc/{process.pid}/root{audit}")
        job_id = await jobs.start("sh", "-c", "echo ready; sleep 1000")
        filler = inside / "filler"
        fill(filler)
        with trio.fail_after(DEADLINE):
            while await is_taken(jobs.start, "true"):
                fill(filler)
        with pytest.raises(
            UnavailableError, match=r"audit cannot be written: its disk is .*full, and so nothing is st"
        ):
            await jobs.start("true")
        assert await first_chunk(jobs, job_id) == b"ready\n"
        await jobs.status(job_id)
        assert [record async for record in jobs.list(pb.ListRequest())]
        assert (await jobs.stop(job_id)).state == pb.JOBSTATE_TERMINATED_BY_API
        filler.unlink()
        with trio.fail_after(DEADLINE):
            while not await is_taken(jobs.start, "true"):
                await trio.sleep(0.05)
            while (calls := told(inside))[-1] != ("Start", "OK"):  # its entry is written after its answer
                await trio.sleep(0.05)
        assert no_number_is_missing(inside)
    refused = calls.index(("Start", "UNAVAILABLE"))
    assert {call for call in calls[:refused] if call[0] == "Start"} == {("Start", "OK")}
    for call in (("FollowOutput", "CANCELLED"), ("Status", "OK"), ("List", "OK"), ("Stop", "OK")):
        assert call in calls[refused:]


def fill(file: Path) -> None:
    """Takes all the space there is on a file's disk."""
    with file.open("ab", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


async def is_taken(start: Callable[..., Any], *argv: str) -> bool:
    """Whether a Start is taken."""
    try:
        await start(*argv)
    except UnavailableError:
        return False
    return True
