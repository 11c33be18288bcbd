"""Calls that break, and what the client makes of them, with a scripted server in the place of a connection."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from jobmaster.client import Jobs, RpcFailedError, connect
from jobmaster.client.calls import Trouble
from jobmaster.client.jobs import FOLLOWING, PATIENCE
from jobmaster.client.patience import LAST_PAUSE, SERVED_SECONDS
from jobmaster.errors import AuditUnavailable, JournalUnavailable, TransportError
from jobmaster.grpc.channel import SILENCE_SECONDS
from jobmaster.grpc.client import CertificateNotAccepted, ServerRefused
from jobmaster.grpc.purerpc_adapter import StatusCode
from jobmaster.grpc.status_details import status_for_client
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.client.scripted import LOST, NOT_FOUND, OK, UNAVAILABLE, Answer, Ends, Quiet, Script

ID: Final = pb.JobID(job_id="job")
RECORD: Final = pb.JobResponse(job_id_response=ID)


def request_ids(script: Script) -> set[str]:
    """Those of all Starts."""
    return {call.request.request_id for call in script.calls if isinstance(call.request, pb.JobCreateRequest)}


@pytest.mark.parametrize(
    "broken",
    [
        [LOST],
        [[LOST]],
        [[UNAVAILABLE], [UNAVAILABLE]],
        [[LOST], LOST, [UNAVAILABLE], LOST],
        [[ServerRefused("it said nothing")]],
        [[ID, LOST]],
    ],
)
async def test_a_start_is_repeated_under_one_name(broken: list[Answer], autojump_clock: trio.testing.MockClock) -> None:
    """A Start that broke is made again as it was, by the same request id, until it is answered."""
    script = Script([*broken, [ID, OK]])
    assert await script.jobs().start("ls", "-l") == "job"
    assert {call.request for call in script.calls if call.request is None} == set()
    assert len(request_ids(script)) == 1
    last = script.calls[-1].request
    assert isinstance(last, pb.JobCreateRequest)
    assert (last.command, list(last.args)) == ("ls", ["-l"])


async def test_each_start_has_a_name_of_its_own() -> None:
    """Two Starts of the same command are two jobs; a name that the caller gives is sent as it is."""
    script = Script([[ID, OK]] * 3)
    jobs = script.jobs()
    await jobs.start("ls")
    await jobs.start("ls")
    assert len(request_ids(script)) == 2
    await jobs.start("ls", request_id="nightly")
    assert "nightly" in request_ids(script)


CALLS: Final[dict[str, Callable[[Jobs], Awaitable[Any]]]] = {
    "Start": lambda jobs: jobs.start("ls"),
    "Stop": lambda jobs: jobs.stop("job", "old", force=True),
    "Status": lambda jobs: jobs.status("job"),
    "Wait": lambda jobs: jobs.wait("job"),
    "Remove": lambda jobs: jobs.remove("job"),
}


def answer_to(method: str) -> pb.JobID | pb.JobResponse | pb.RemoveResponse:
    """What a server answers."""
    match method:
        case "Start":
            return ID
        case "Remove":
            return pb.RemoveResponse()
        case _:
            return RECORD


@pytest.mark.parametrize("method", CALLS)
async def test_every_call_survives(method: str, autojump_clock: trio.testing.MockClock) -> None:
    """Whatever is called is called again while the server is away, and answered by the one that comes."""
    script = Script([[LOST], LOST, [UNAVAILABLE], [answer_to(method), OK]])
    await CALLS[method](script.jobs())
    assert {call.method for call in script.calls} == {method}


@pytest.mark.parametrize(("failures", "is_told"), [(4, False), (40, True)])
async def test_who_waits_is_told_why(failures: int, is_told: bool, autojump_clock: trio.testing.MockClock) -> None:
    """A server that is soon there again is no news; of one that is away for longer the caller hears once, and again later."""
    told: list[Exception] = []
    script = Script([[RECORD, OK], *([LOST] * failures), [RECORD, OK]] * 2)
    jobs = script.jobs(trouble=Trouble(told.append), patience=1000.0)
    for _ in range(4):
        await jobs.status("job")
    assert told == [LOST, LOST] * is_told


async def test_who_waits_for_the_first_connection_is_told_why(
    certificates: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Where a launcher alone has the port, that is said soon, and once, long before patience ends."""
    times: list[float] = []
    words: list[str] = []
    began = trio.current_time()

    def tell(error: Exception) -> None:
        times.append(trio.current_time() - began)
        words.append(str(error))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(TransportError, match="no answer within"):
            async with connect("127.0.0.1", port, folder=certificates, name="client1", on_trouble=tell):
                pass
    assert times == pytest.approx([SILENCE_SECONDS])
    assert words == [f"127.0.0.1:{port} does not answer"]


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("error", [LOST, [LOST], [UNAVAILABLE]], ids=["connection", "call", "status"])
async def test_patience_ends(method: str, error: Answer, autojump_clock: trio.testing.MockClock) -> None:
    """A server that is gone for good is given up in time, with its last error; later by what lasts as long as a job."""
    script = Script([error] * 1000)
    with pytest.raises((TransportError, RpcFailedError)):
        await CALLS[method](script.jobs())
    longest = PATIENCE * (FOLLOWING if method == "Wait" else 1)
    assert script.attempts[-1] - script.attempts[0] == pytest.approx(longest, abs=LAST_PAUSE)


def unavailable(error: type[Exception]) -> Ends:
    """As a server says UNAVAILABLE for an error."""
    return Ends("UNAVAILABLE", "its disk", status_for_client(StatusCode.UNAVAILABLE, error("its disk")).details)


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("error", [JournalUnavailable, AuditUnavailable])
async def test_patience_ends_with_a_disk_that_hangs(
    method: str, error: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    """A server that waits for its disk in each call before it says that it cannot answer is given up in time as well."""
    script = Script([[Quiet(seconds=SERVED_SECONDS + 5), unavailable(error)]] * 1000)
    with pytest.raises(RpcFailedError, match="its disk"):
        await CALLS[method](script.jobs())
    longest = PATIENCE * (FOLLOWING if method == "Wait" else 1)
    assert script.attempts[-1] - script.attempts[0] <= longest + SERVED_SECONDS + 5


@pytest.mark.parametrize("method", sorted(CALLS.keys() - {"Stop", "Wait"}))
@pytest.mark.parametrize("end", [LOST, UNAVAILABLE])
async def test_patience_ends_with_a_server_that_hangs(
    method: str, end: TransportError | Ends, autojump_clock: trio.testing.MockClock
) -> None:
    """A call that does not last as a job does is in vain where it breaks, however long it was open."""
    script = Script([[Quiet(seconds=SERVED_SECONDS + 5), end]] * 1000)
    with pytest.raises((TransportError, RpcFailedError)):
        await CALLS[method](script.jobs())
    assert script.attempts[-1] - script.attempts[0] <= PATIENCE + SERVED_SECONDS + 5


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize(
    "code", ["INVALID_ARGUMENT", "ALREADY_EXISTS", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN"]
)
async def test_refusals_are_final(method: str, code: str) -> None:
    """A status that would be the same the next time, or that another time may change, is the caller's at once."""
    script = Script([[Ends(code, "why")]])
    with pytest.raises(RpcFailedError) as failure:
        await CALLS[method](script.jobs())
    assert failure.value.status.status_message == "why"


async def test_a_removal_that_broke_may_have_been_done(autojump_clock: trio.testing.MockClock) -> None:
    """A job that is not there when the call is made again is removed; one that never was is told to be none."""
    await Script([[LOST], [UNAVAILABLE], [NOT_FOUND]]).jobs().remove("job")
    with pytest.raises(RpcFailedError, match="no such job"):
        await Script([[NOT_FOUND]]).jobs().remove("job")
    with pytest.raises(RpcFailedError, match="no such job"):
        await Script([[LOST], [NOT_FOUND]]).jobs().stop("job")


async def test_a_certificate_that_was_never_accepted() -> None:
    """A server that refuses the certificate in the first call is not asked again."""
    script = Script([[CertificateNotAccepted("unknown CA")]])
    with pytest.raises(CertificateNotAccepted):
        await script.jobs().status("job")


async def test_a_certificate_that_was_accepted_before(autojump_clock: trio.testing.MockClock) -> None:
    """A server that took this client before is asked again: it may be about to be replaced."""
    script = Script([[RECORD, OK], [CertificateNotAccepted("unknown CA")], [RECORD, OK]])
    jobs = script.jobs()
    await jobs.status("job")
    assert await jobs.status("job") == RECORD


@pytest.mark.parametrize("parts", [[RECORD, RECORD], [OK]], ids=["two", "none"])
async def test_an_answer_is_one_message(parts: list[Any]) -> None:
    """A server that answers with no message or with two is told apart from one that answers."""
    with pytest.raises(RpcFailedError, match="the server sent"):
        await Script([parts]).jobs().status("job")


async def test_a_wait_over_a_network_that_cuts(autojump_clock: trio.testing.MockClock) -> None:
    """A wait that is cut every hour lasts as long as the job."""
    quiet: list[Answer] = [[Quiet(), LOST] for _ in range(100)]
    script = Script([*quiet, [RECORD, OK]])
    assert await script.jobs().wait("job") == RECORD


async def test_what_a_stop_says() -> None:
    """Reason and force are sent."""
    script = Script([[RECORD, OK]])
    await script.jobs().stop("job", "old", force=True)
    assert script.calls[0].request == pb.JobIDRequest(job_id_request=ID, reason="old", force=True)


# --- lists ------------------------------------------------------------------------------------------------------------


def page(*names: str, token: str = "") -> list[Any]:
    """A page of jobs."""
    jobs = [pb.JobResponse(job_id_response=pb.JobID(job_id=name)) for name in names]
    return [pb.ListResponse(jobs=jobs, next_page_token=token), OK]


async def listed(script: Script, **options: Any) -> list[str]:
    """The ids of the jobs of a list."""
    return [record.job_id_response.job_id async for record in script.jobs().list(**options)]


async def test_a_list_is_all_its_pages(autojump_clock: trio.testing.MockClock) -> None:
    """Page follows page, over calls that break and pages without a job, to the one that is the last."""
    script = Script([page("a", "b", token="7"), [LOST], page(token="6"), page("c")])
    assert await listed(script, query=pb.ListRequest(client="client1")) == ["a", "b", "c"]
    tokens = [call.request.page_token for call in script.calls if isinstance(call.request, pb.ListRequest)]
    assert tokens == ["", "7", "7", "6"]
    assert all(isinstance(call.request, pb.ListRequest) and call.request.client == "client1" for call in script.calls)


async def test_a_list_with_a_limit() -> None:
    """So many jobs are asked for and no more, whatever the size of the pages."""
    script = Script([page("a", "b", token="7"), page("c", token="6")])
    assert await listed(script, limit=3) == ["a", "b", "c"]
    sizes = [call.request.page_size for call in script.calls if isinstance(call.request, pb.ListRequest)]
    assert sizes == [3, 1]
    assert await listed(Script([]), limit=0) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (pb.ListRequest(name="n"), ["d"]),
        (pb.ListRequest(labels={"c": ""}), ["d"]),
        (pb.ListRequest(name="n", labels={"a": "b", "c": ""}), ["d"]),
        (pb.ListRequest(name="x"), []),
        (pb.ListRequest(labels={"a": "x"}), []),
        (pb.ListRequest(labels={"x": ""}), []),
    ],
)
async def test_a_list_by_an_older_server(query: pb.ListRequest, expected: list[str]) -> None:
    """One that knows no names and labels, and so lists all jobs, has none for who asks for some."""
    called = pb.JobCreateRequest(name="n", labels={"a": "b", "c": ""})
    named = pb.JobResponse(job_id_response=pb.JobID(job_id="d"), cmd=called)
    script = Script([page("a", "b", token="7"), page(token="6"), [pb.ListResponse(jobs=[named]), OK]])
    assert await listed(script, query=query, limit=2) == expected


# --- watches ----------------------------------------------------------------------------------------------------------


def event(seq: int) -> pb.JobEventMessage:
    """An event."""
    message = pb.JobEventMessage(seq=seq, job_id=ID)
    message.executed.SetInParent()
    return message


def position(seq: int) -> pb.JobEventMessage:
    """What tells a position."""
    return pb.JobEventMessage(seq=seq)


async def watched(script: Script, after: int | None) -> list[int]:
    """The numbers of the events of a watch, until it fails."""
    seen: list[int] = []

    async def watch() -> None:
        async with script.jobs().watch(after) as events:
            while True:
                seen.append((await anext(events)).seq)

    with pytest.raises(RpcFailedError, match="the end"):
        await watch()
    return seen


END: Final = Ends("INTERNAL", "the end")


@pytest.mark.parametrize(
    ("after", "first"), [(None, pb.WatchRequest(only_new=True)), (0, pb.WatchRequest()), (5, pb.WatchRequest(after=5))]
)
async def test_a_watch_goes_on_after_the_last_event(
    after: int | None, first: pb.WatchRequest, autojump_clock: trio.testing.MockClock
) -> None:
    """Each event comes once over calls that break; the next call begins after what the last one told."""
    script = Script([[LOST], [event(6), event(9), LOST], LOST, [position(20), UNAVAILABLE], [event(21), END]])
    assert await watched(script, after) == [6, 9, 21]
    asked = [call.request for call in script.calls]
    assert asked == [first, first, pb.WatchRequest(after=9), pb.WatchRequest(after=20)]


async def test_a_watch_that_lost_its_place(autojump_clock: trio.testing.MockClock) -> None:
    """A server that does not keep all that happened since says so, and the watch ends."""
    script = Script([[event(6), LOST], [Ends("FAILED_PRECONDITION", "the end: watch anew")]])
    assert await watched(script, 0) == [6]


async def test_leaving_a_watch_ends_its_call(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever leaves the block leaves no call open."""
    script = Script([[event(6), Quiet()]])
    async with script.jobs().watch(0) as events:
        assert (await anext(events)).seq == 6
    assert script.calls[0].was_reset
