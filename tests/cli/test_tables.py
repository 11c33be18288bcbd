"""Jobs and events for people, a line each."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from jobmaster.cli.tables import event_line, events_header, job_line, jobs_header, stats_header, stats_line
from jobmaster.jobs.v1 import jobs_pb2 as pb

JOB: Final = "0ujtsYcgvSTl8PAuAdqWYSMnLOv"
NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Cause = pb.Cause
Event = pb.JobEventMessage


def record(*, cause: pb.Cause | None = None, seconds: float = 0, **fields: Any) -> pb.JobResponse:
    """A job that ran for so long until now, or until its end."""
    made = pb.JobResponse(
        job_id_response=pb.JobID(job_id=JOB),
        client="client1",
        state=pb.JOBSTATE_RUNNING,
        cmd=pb.JobCreateRequest(command="sh", args=["-c", "echo 'a b'"]),
        **fields,
    )
    made.started.FromDatetime(NOW - timedelta(seconds=seconds))
    if cause is not None:
        made.cause.CopyFrom(cause)
        made.state = pb.JOBSTATE_COMPLETED
        made.ended.FromDatetime(NOW)
    return made


def columns(line: str) -> list[str]:
    """The cells of a line."""
    return re.split(r" {2,}", line.strip())


def test_a_job_that_runs() -> None:
    """A line has the job, whose it is, its state, since when, for how long, and the command as a shell would take it."""
    job, client, state, started, time, command = columns(job_line(record(seconds=65), NOW, 0))
    assert (job, client, state, time) == (JOB, "client1", "running", "65s")
    assert datetime.fromisoformat(started).astimezone() == NOW - timedelta(seconds=65)
    assert command == """sh -c 'echo '"'"'a b'"'"''"""


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (Cause(exited=Cause.Exited(code=3)), "exited 3"),
        (Cause(signalled=Cause.Signalled(signal=11)), "SIGSEGV"),
        (Cause(signalled=Cause.Signalled(signal=40)), "signal 40"),
        (Cause(stopped=Cause.Stopped()), "stopped"),
        (Cause(oom_killed=Cause.OomKilled()), "oom killed"),
        (Cause(server_shutdown=Cause.ServerShutdown()), "server shutdown"),
        (Cause(), "completed"),
    ],
    ids=str,
)
def test_how_a_job_ended(cause: pb.Cause, words: str) -> None:
    """An end is told in a word or two."""
    assert columns(job_line(record(cause=cause), NOW, 0))[2] == words


def test_a_job_that_went_on_without_those_killed_for_memory() -> None:
    """That it returned is not all there is to tell of a job of which the kernel has killed processes for memory."""
    made = record(cause=Cause(exited=Cause.Exited(code=0)))
    made.oom_kills = 2
    assert columns(job_line(made, NOW, 0))[2] == "exited 0 oom"


def test_a_state_of_a_newer_server() -> None:
    """A state that this client does not know is shown by its number."""
    made = record()
    made.ParseFromString(made.SerializeToString() + b"\x28\x2a")  # field 5, state, again: 42
    assert columns(job_line(made, NOW, 0))[2] == "42"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172_800, "2d"),
        (1e8, "1157d"),
    ],
)
def test_how_long(seconds: float, shown: str) -> None:
    """A time is told in the greatest unit of which there are at least two; clocks that differ show none."""
    assert columns(job_line(record(seconds=seconds), NOW, 0))[4] == shown
    assert columns(job_line(record(seconds=seconds, cause=Cause()), NOW + timedelta(days=9), 0))[4] == shown


def test_a_job_with_a_name() -> None:
    """It comes before the command, without what a terminal would obey."""
    shown = record(seconds=1)
    shown.cmd.name = "night\x1b"
    assert columns(job_line(shown, NOW, 0))[5].startswith("night\\x1b: ")


EVENTS: Final = [
    (Event(launched=Event.Launched(cmd=pb.JobCreateRequest(command="ls", args=["-l"]))), "launched: ls -l"),
    (Event(executed=Event.Executed()), "started"),
    (Event(run_time_warned=Event.RunTimeWarned(signal=10)), "warned of the end of its time by SIGUSR1"),
    (Event(stop_ordered=Event.StopOrdered(by="client2", reason="old")), "stop ordered by client2: old"),
    (Event(paused=Event.Paused(by="client2")), "paused by client2"),
    (Event(resumed=Event.Resumed(by="client2")), "resumed by client2"),
    (Event(signal_ordered=Event.SignalOrdered(signal=10, by="client2")), "SIGUSR1 ordered by client2"),
    (
        Event(signal_ordered=Event.SignalOrdered(signal=63, by="client2", all=True)),
        "signal 63 to all of its processes ordered by client2",
    ),
    (Event(stop_ordered=Event.StopOrdered()), "stop ordered by the server"),
    (Event(stop_signalled=Event.StopSignalled()), "stop signalled"),
    (Event(kill_sent=Event.KillSent()), "killed with all of its processes"),
    (Event(main_process_died=Event.MainProcessDied(exited=Cause.Exited(code=2))), "main process returned 2"),
    (
        Event(main_process_died=Event.MainProcessDied(signalled=Cause.Signalled(signal=9), killed_for_memory=True)),
        "main process died of SIGKILL, for memory",
    ),
    (Event(oom_kills_counted=Event.OomKillsCounted(count=2)), "processes killed for memory: 2"),
    (Event(output_lost=Event.OutputLost(bytes=5)), "bytes of output lost: 5"),
    (Event(output_pruned=pb.OutputPruned(reason="too much")), "output removed: too much"),
    (Event(finished=Event.Finished(job_msg="exited with code 0")), "ended: exited with code 0"),
    (Event(removed=Event.Removed()), "removed"),
    (Event(), "?"),
]


@pytest.mark.parametrize(("event", "words"), EVENTS, ids=[words for _, words in EVENTS])
def test_events(event: pb.JobEventMessage, words: str) -> None:
    """A line has the event's number, its time, the job, whose it is, and what happened."""
    event.seq, event.client = 17, "client1"
    event.job_id.job_id = JOB
    event.time.FromDatetime(NOW)
    seq, time, job, client, happening = columns(event_line(event, 0))
    assert (seq, job, client, happening) == ("17", JOB, "client1", words)
    assert datetime.fromisoformat(time).astimezone() == NOW


def test_every_event_has_words() -> None:
    """No event that this client knows is shown as one that it does not know."""
    kinds = {event.WhichOneof("kind") for event, _ in EVENTS} - {None}
    assert kinds == {field.name for field in Event.DESCRIPTOR.oneofs_by_name["kind"].fields}


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "\u202eevil"])
def test_a_terminal_is_safe(hostile: str) -> None:
    """Control characters of commands, reasons and messages are shown, not obeyed, and make no line of their own."""
    made = record()
    made.cmd.args.append(hostile)
    lines = [job_line(made, NOW, 0)]
    lines += [
        event_line(event, 0)
        for event in (
            Event(launched=Event.Launched(cmd=made.cmd)),
            Event(stop_ordered=Event.StopOrdered(by="x", reason=hostile)),
            Event(finished=Event.Finished(job_msg=hostile)),
        )
    ]
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("width", [20, 100, 130])
def test_a_line_is_no_wider_than_the_terminal(width: int) -> None:
    """What does not fit is cut, and that is shown."""
    made = record()
    made.cmd.args.append("x" * 200)
    line = job_line(made, NOW, width)
    assert len(line) == width
    assert line.endswith("…")
    assert len(jobs_header(width)) <= width


@pytest.mark.parametrize("width", [0, 80, 120])
def test_headers_stand_over_their_columns(width: int) -> None:
    """Each column begins under its name; the last one has room on a terminal of eighty columns, too."""
    line = job_line(record(), NOW, width)
    header = jobs_header(width)
    assert line[header.index("STATE") :].startswith("running")
    assert line[header.index("COMMAND") :].startswith("sh -c 'echo")
    event = Event(seq=1, job_id=pb.JobID(job_id=JOB), removed=Event.Removed())
    event.time.FromDatetime(NOW)
    line, header = event_line(event, width), events_header(width)
    assert line[header.index("JOB") :].startswith(JOB)
    assert line[header.index("EVENT") :].startswith("removed")


def test_samples() -> None:
    """A line has what is known, - for what is not, and how busy the processors were since the line before."""
    first, second = pb.JobStats(), pb.JobStats(paused=True)
    first.usage.cpu.user_usec.value, second.usage.cpu.user_usec.value = 500_000, 2_000_000
    first.usage.wall_usec.value, second.usage.wall_usec.value = 1_000_000, 2_000_000
    second.memory_now.value, second.pids_now.value = 2**20, 3
    second.usage.io.devices.add(read_bytes=2**20)
    second.cpu_pressure.some = 12.4
    assert stats_line(first, None, 0).split()[1:] == ["-", "0.50s", "-", "-", "-", "-", "-", "-/-/-"]
    assert stats_line(second, first, 0).split()[1:3] == ["150%", "2.00s"]
    assert stats_line(second, first, 0).split()[-2:] == ["12%/-/-", "paused"]
    assert stats_line(pb.JobStats(ended=True), second, 0).endswith("ended")
    assert len(stats_line(second, first, 40)) == len(stats_header(40)) == 40
