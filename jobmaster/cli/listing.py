"""`list` and `events`: tables on a terminal, lines of JSON for programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import trio

from jobmaster.cli.actions import Events, List, Stats
from jobmaster.cli.descriptors import STDOUT, write_notice, write_text
from jobmaster.cli.moments import utc_of
from jobmaster.cli.presentation import as_json
from jobmaster.cli.tables import event_line, events_header, job_line, jobs_header, stats_header, stats_line
from jobmaster.client import Jobs
from jobmaster.jobs.v1 import jobs_pb2 as pb

GATHERED: Final = 64 * 1024
"""Characters that are gathered before they are written."""


async def list_jobs(jobs: Jobs, action: List) -> None:
    """Writes a line for each job."""
    line = _line_of_job(action)
    if line is _table_line and not action.only_ids:
        await _write(f"{jobs_header(_width())}\n")
    text, count = "", 0
    async for record in jobs.list(query_of(action), limit=action.limit + 1 if action.limit else None):
        if action.limit and count == action.limit:
            await _write(text)
            text, notice = "", f"jobmaster: there are more than {action.limit} jobs; see --limit\n"
            await trio.to_thread.run_sync(write_notice, notice, abandon_on_cancel=True)
            break
        count += 1
        text += f"{line(record)}\n"
        if len(text) >= GATHERED:
            await _write(text)
            text = ""
    await _write(text)


async def show_events(jobs: Jobs, action: Events) -> None:
    """Writes a line for each event as it comes; ends with the program."""
    as_table = not _wants_json(action.as_json)
    width = _width()
    if as_table:
        await _write(f"{events_header(width)}\n")
    async with jobs.watch(action.after) as events:
        async for event in events:
            await _write(f"{event_line(event, width) if as_table else as_json(event)}\n")


async def show_stats(jobs: Jobs, action: Stats) -> None:
    """Writes a line for each sample as it comes, until the job has ended."""
    as_table = not _wants_json(action.as_json)
    width = _width()
    if as_table:
        await _write(f"{stats_header(width)}\n")
    before: pb.JobStats | None = None
    async with jobs.stats(action.job_id, interval_ms=action.interval_ms) as stats:
        async for each in stats:
            await _write(f"{stats_line(each, before, width) if as_table else as_json(each)}\n")
            before = each
            if not action.follow:
                break


def query_of(action: List) -> pb.ListRequest:
    """What a server is asked."""
    query = pb.ListRequest(
        client=action.client,
        states=[f"JOBSTATE_{state}" for state in action.states],
        causes=[f"CAUSEKIND_{cause}" for cause in action.causes],
        name=action.name,
        labels=dict(action.labels),
    )
    if action.since is not None:
        query.started_after.FromDatetime(utc_of(action.since))
    if action.until is not None:
        query.started_before.FromDatetime(utc_of(action.until))
    return query


def _line_of_job(action: List) -> Callable[[pb.JobResponse], str]:
    if action.only_ids:
        return lambda record: record.job_id_response.job_id
    return as_json if _wants_json(action.as_json) else _table_line


def _table_line(record: pb.JobResponse) -> str:
    return job_line(record, datetime.now(UTC), _width())


def _wants_json(asked: bool | None) -> bool:  # one of three
    return not os.isatty(STDOUT) if asked is None else asked


def _width() -> int:
    return shutil.get_terminal_size().columns if os.isatty(STDOUT) else 0


async def _write(text: str) -> None:
    """Blocks in a thread, so that a reader who stalls does not keep the connection from answering the server."""
    await trio.to_thread.run_sync(write_text, text, abandon_on_cancel=True)
