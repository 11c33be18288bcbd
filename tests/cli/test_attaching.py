"""What `attach` and `run` do with standard input, with a scripted server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from jobmaster.api.statuses import status_of
from jobmaster.cli import descriptors
from jobmaster.cli.actions import Attach
from jobmaster.cli.attaching import attach
from jobmaster.cli.descriptors import STDIN, is_stdin_given
from jobmaster.errors import InputRefused
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.cli.test_descriptors import said_to_a_late_reader
from tests.cli.test_running import ID, RETURNED, SHUT_DOWN
from tests.client.scripted import LOST, OK, Answer, Ends, Part, Quiet, Script


@pytest.fixture
def own_stdin() -> Iterator[None]:
    """Gives the test's standard input back."""
    saved = os.dup(STDIN)
    yield
    os.dup2(saved, STDIN)
    os.close(saved)


def put_in(descriptor: int) -> None:
    """Makes a descriptor standard input, and closes it."""
    os.dup2(descriptor, STDIN)
    os.close(descriptor)


def a_pipe(data: bytes) -> int:
    """The read end of a pipe with these bytes and an end."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return read


@pytest.mark.usefixtures("own_stdin")
def test_what_is_given(tmp_path: Path) -> None:
    """A pipe and a file are meant for the command; a terminal and the null device may just be there."""
    (tmp_path / "file").touch()
    master, slave = os.openpty()
    given = []
    for descriptor in (
        a_pipe(b""),
        os.open(tmp_path / "file", os.O_RDONLY),
        os.open("/dev/null", os.O_RDONLY),
        slave,
    ):
        put_in(descriptor)
        given.append(is_stdin_given())
    os.close(master)
    assert given == [True, True, False, False]


def chunk(offset: int, data: bytes) -> pb.AttachResponse:
    """Output."""
    return pb.AttachResponse(output=pb.OutputChunk(offset=offset, data=data))


REFUSED = status_of(InputRefused("no stdin"))
REFUSAL = Ends(REFUSED.status_code.name, "no stdin", details=REFUSED.details)
STATUS: Answer = [pb.JobResponse(job_id_response=ID, output_bytes=5), OK]


@pytest.mark.usefixtures("own_stdin")
async def test_input_that_the_job_does_not_take(capfd: pytest.CaptureFixture[str]) -> None:
    """It is said, and the output goes on at the byte where it was."""
    put_in(a_pipe(b"typed"))
    script = Script([STATUS, [chunk(5, b"abc"), REFUSAL], [chunk(8, b"def"), OK]], waits=[RETURNED])
    assert await attach(script.jobs(), Attach(job_id="job")) == (3, "")
    assert capfd.readouterr() == ("abcdef", "jobmaster: standard input is not the job's: no stdin\n")
    first, second = (call.request for call in script.calls if call.method == "Attach")
    assert isinstance(first, pb.AttachRequest)
    assert isinstance(second, pb.AttachRequest)
    assert (first.start.output_offset, bool(first.start.writer)) == (5, True)
    assert (second.start.output_offset, second.start.writer) == (8, "")


@pytest.mark.usefixtures("own_stdin")
async def test_nothing_to_send(capfd: pytest.CaptureFixture[str]) -> None:
    """Where standard input is the null device, the job's input is left to others."""
    put_in(os.open("/dev/null", os.O_RDONLY))
    script = Script([STATUS, [chunk(0, b"abc"), OK]], waits=[RETURNED])
    assert await attach(script.jobs(), Attach(job_id="job", from_start=True)) == (3, "")
    assert capfd.readouterr() == ("abc", "")
    (request,) = (call.request for call in script.calls if call.method == "Attach")
    assert isinstance(request, pb.AttachRequest)
    assert request.start.writer == ""


@pytest.mark.usefixtures("own_stdin")
async def test_output_that_was_not_kept(capfd: pytest.CaptureFixture[str]) -> None:
    """What is missing of the output, in a gap or nowhere, is said; the exit status is the job's all the same."""
    put_in(os.open("/dev/null", os.O_RDONLY))
    gap = pb.AttachResponse(output=pb.OutputChunk(offset=5, gap=pb.OutputGap(length=7)))
    script = Script([STATUS, [gap, chunk(12, b"x"), Ends("DATA_LOSS", "more is lost")]], waits=[RETURNED])
    assert await attach(script.jobs(), Attach(job_id="job")) == (3, "")
    expected = "jobmaster: 7 bytes of the output are missing here\njobmaster: more is lost (DATA_LOSS)\n"
    assert capfd.readouterr() == ("x", expected)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            [pb.AttachResponse(output=pb.OutputChunk(gap=pb.OutputGap(length=7))), OK],
            b"7 bytes of the output are missing",
        ),
        ([Ends("DATA_LOSS", "some is lost")], b"some is lost"),
    ],
)
async def test_a_loss_that_is_read_late(monkeypatch: pytest.MonkeyPatch, parts: list[Part], said: bytes) -> None:
    """Whoever reads in the end, as with a pager that waits, is told of it."""
    monkeypatch.setattr(descriptors, "COMPLAIN_SECONDS", 0)
    jobs = Script([STATUS, parts], waits=[RETURNED]).jobs()
    assert said in await said_to_a_late_reader(lambda: attach(jobs, Attach(job_id="job", stdin=False)))


async def test_a_server_that_ends_with_the_job() -> None:
    """Who attaches has asked for the job's end before its output ends, when there may be no server to ask any more."""
    output = Quiet()
    ended = Quiet()
    script = Script([STATUS, [output, chunk(5, b"bye"), OK]], waits=[[ended, *SHUT_DOWN]])

    def end() -> None:
        ended.until.set()
        output.until.set()
        script.waits = [LOST] * 1000  # for who asks from now on

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_when_asked, script, end)
        assert await attach(script.jobs(), Attach(job_id="job", stdin=False)) == (143, "")


async def _when_asked(script: Script, end: Callable[[], None]) -> None:
    await trio.testing.wait_all_tasks_blocked()
    end()
