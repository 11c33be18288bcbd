"""`logs`: what a server is asked, and what is written where."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio.testing
from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.cli import descriptors
from jobmaster.cli.actions import Logs
from jobmaster.cli.logs import Stamps, copy_output, gap_in_words, request_of, show_logs
from jobmaster.client import RpcFailedError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.cli.test_descriptors import said_to_a_late_reader
from tests.client.scripted import LOST, OK, UNIMPLEMENTED, Script

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)


def stamp(moment: datetime = MOMENT) -> Timestamp:
    """A time as a message has it."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made


@pytest.mark.parametrize(
    ("action", "request_"),
    [
        (Logs(job_id="job"), pb.FollowOutputRequest()),
        (Logs(job_id="job", follow=False), pb.FollowOutputRequest(no_follow=True)),
        (Logs(job_id="job", tail=0), pb.FollowOutputRequest(last_lines=0)),
        (Logs(job_id="job", from_offset=0), pb.FollowOutputRequest(from_offset=0)),
        (Logs(job_id="job", since=MOMENT), pb.FollowOutputRequest(since=stamp())),
        (Logs(job_id="job", until=MOMENT, timestamps=True), pb.FollowOutputRequest(until=stamp(), timestamps=True)),
        (Logs(job_id="job", stream="stderr"), pb.FollowOutputRequest(stream=pb.OUTPUTSTREAM_STDERR)),
    ],
)
def test_what_is_asked(action: Logs, request_: pb.FollowOutputRequest) -> None:
    """Each option is a field of the request."""
    assert request_of(action) == request_


async def test_bytes_and_gaps(
    autojump_clock: trio.testing.MockClock, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Bytes go to stdout as they are, gaps to stderr in words, each once over calls that break."""
    gap = pb.OutputChunk(offset=3, gap=pb.OutputGap(length=4, reason=pb.GAPREASON_CAPPED))
    script = Script([[pb.OutputChunk(data=b"a\0\xff"), gap, LOST], [pb.OutputChunk(offset=7, data=b"end"), OK]])
    await show_logs(script.jobs(), Logs(job_id="job"))
    assert capfdbinary.readouterr() == (
        b"a\0\xffend",
        b"jobmaster: 4 bytes from offset 3 on are missing: the output is larger than what is kept of it\n",
    )


async def test_a_gap_that_is_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads in the end, as with a pager that waits, is told of it."""
    monkeypatch.setattr(descriptors, "COMPLAIN_SECONDS", 0)
    gap = pb.OutputChunk(offset=3, gap=pb.OutputGap(length=4, reason=pb.GAPREASON_CAPPED))
    jobs = Script([[gap, OK]]).jobs()
    assert b"4 bytes from offset 3 on" in await said_to_a_late_reader(lambda: show_logs(jobs, Logs(job_id="job")))


@pytest.mark.parametrize("reason", [*pb.GapReason.values(), 99])
def test_gaps_in_words(reason: int) -> None:
    """Each reason has its words, one of a later server too."""
    chunk = pb.OutputChunk(offset=2**40, gap=pb.OutputGap(length=5, reason=reason))  # type: ignore[arg-type]  # any number
    assert gap_in_words(chunk).startswith(f"5 bytes from offset {2**40} on are missing: ")


def test_times() -> None:
    """Each line has the time at which it began, whatever it consists of and over however many chunks it comes."""
    stamps = Stamps()
    chunks = [
        pb.OutputChunk(data=b"one\ntw", time=stamp()),
        pb.OutputChunk(data=b"o\r\x85\n", time=stamp(MOMENT.replace(second=6))),
        pb.OutputChunk(data=b"\n\nthree", time=stamp(MOMENT.replace(second=7))),
        pb.OutputChunk(data=b"\n"),
        pb.OutputChunk(data=b"four"),
    ]
    assert b"".join(map(stamps.stamped, chunks)).splitlines(keepends=True) == b"".join(
        [
            b"2026-01-02T03:04:05.600000Z one\n",
            b"2026-01-02T03:04:05.600000Z two\r\x85\n",
            b"2026-01-02T03:04:07.600000Z \n",
            b"2026-01-02T03:04:07.600000Z \n",
            b"2026-01-02T03:04:07.600000Z three\n",
            b"--------------------------- four",
        ]
    ).splitlines(keepends=True)


async def test_a_server_of_an_earlier_version(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """One that knows no parts of an output is asked for all of it, if that is what is wanted."""
    script = Script([[b"all of it", OK]], has_parts=False)
    await show_logs(script.jobs(), Logs(job_id="job"))
    assert capfdbinary.readouterr() == (b"all of it", b"")
    with pytest.raises(RpcFailedError):
        await show_logs(Script([[UNIMPLEMENTED]]).jobs(), Logs(job_id="job", tail=1))


async def test_stream_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """`streamoutput` writes all output and nothing else."""
    await copy_output(Script([[b"all ", b"of it", OK]]).jobs(), "job")
    assert capfdbinary.readouterr() == (b"all of it", b"")
