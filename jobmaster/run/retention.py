"""Forgets jobs that are not to be kept any longer: first the file of the output, then the record that names it.

A job that nobody was told of is forgotten at once; the journal remembers its id until the file is gone, whoever dies
meanwhile and however long the disk does not take it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

import trio

from jobmaster.errors import JournalUnavailable
from jobmaster.job.identifier import JobId
from jobmaster.journal.stored import Retention
from jobmaster.output.files import unlink_output
from jobmaster.run.execution import ExecutionHost
from jobmaster.run.recorder import Records
from jobmaster.run.removal import LAST_SECONDS, REMOVERS
from jobmaster.threads import NoThread, run_in_thread

SETTLE_SECONDS: Final = 5.0
"""How long the journal may take to write what has happened. On a full disk it takes until there is space, which the
outputs of what it knows to have ended may give."""

logger = logging.getLogger(__name__)


async def forget_expired(
    host: ExecutionHost, records: Records, retention: Retention, given_up: Collection[JobId]
) -> list[JobId]:
    """Forgets what `retention` does not keep, and the records of jobs that nobody was told of.

    Where the journal or the disk of the output fails, the rest is left for another time, and that is logged.

    Returns: the jobs that are forgotten, those of `given_up` included.
    """
    forgotten: list[JobId] = []
    try:
        with trio.move_on_after(SETTLE_SECONDS) as settling:
            await records.settle()
        if not settling.cancelled_caught:  # the end of a job has to be there before the job can go
            await records.remove(tuple(given_up), given_up=True)
            forgotten += given_up
        await _remove_discarded(host, records)
        while expired := await records.expired(retention):
            removed = await _forget(host, records, [job_id for job_id, _ in expired])
            forgotten += removed
            if len(removed) < len(expired):
                break
    except (JournalUnavailable, NoThread) as error:
        logger.warning("ended jobs are kept longer than they should be: %s", error)
    return forgotten


async def _remove_discarded(host: ExecutionHost, records: Records) -> None:
    """Removes the outputs of jobs that are forgotten; what fails is left for the next time, and named in one line."""
    last, failed = "", list[str]()
    while job_ids := await records.discarded(last):
        last = job_ids[-1]
        removed: list[JobId] = []
        for job_id in job_ids:
            try:
                await remove_output(host, job_id)
            except OSError as error:
                failed = [*failed, f"{host.output_path(job_id)}: {error.strerror}"][:1]
            else:
                removed.append(job_id)
        if removed:
            await records.forget_discarded(removed)
    if failed:
        logger.warning("outputs of jobs that are forgotten cannot be removed now, and will be: %s", *failed)


async def _forget(host: ExecutionHost, records: Records, job_ids: Sequence[JobId]) -> list[JobId]:
    removed: list[JobId] = []
    try:
        for job_id in job_ids:
            if await _is_removed(host, job_id):
                removed.append(job_id)  # noqa: PERF401  # what is removed counts where this is cancelled
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_SECONDS):
            await records.remove(removed)
    return removed


async def _is_removed(host: ExecutionHost, job_id: JobId) -> bool:
    try:
        await remove_output(host, job_id)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", host.output_path(job_id), error)
        return False
    return True


async def remove_output(host: ExecutionHost, job_id: JobId) -> None:
    """Removes a job's output with its index, in a thread; a follower that has the file reads on.

    Raises:
        OSError: its disk fails.
        NoThread: there is no thread for it.
    """
    await run_in_thread(REMOVERS, unlink_output, host.output_path(job_id), abandon=True)
