"""The program in the guest: `python -m tests.kernel.power.agent FOLDER BOOT [--last] [server's option ...]`.

It checks what the power cut before has left of the journal, starts the server on it, holds the server's records against
what clients were told, has starts repeated by their request ids, and then loads the server until the next cut; the last
time it ends the server instead. FOLDER holds the certificates and `told`, the lines of all boots before. What it says
are the lines of `told`, and documents with a key "phase" or "found".
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from jobmaster.client import Jobs, RpcFailedError
from jobmaster.client.resumption import OutputIncomplete
from jobmaster.errors import ConfigurationError, TransportError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal.database import Database
from tests.harness import Server, own_cgroup_root, started
from tests.journal.jobs import records as records_of
from tests.journal.replay import events_in, replayed
from tests.kernel.disk import DISK
from tests.kernel.power.load import ADMIN, answered, load, say
from tests.kernel.power.told import Told, boot_of, findings, line_ended, token_of

REPEATED: Final = 10
"""Starts that were answered and are asked for once more."""


def main(arguments: Sequence[str]) -> int:
    """Runs the program; the exit status is not 0 where something was found."""
    folder, boot, *options = arguments
    is_last = "--last" in options
    agent = Agent(Path(folder), int(boot), tuple(each for each in options if each != "--last"), is_last=is_last)
    trio.run(agent.run)
    return int(agent.has_found)


def damages_of(state: Path) -> list[str]:
    """What is wrong with the journal, told from a copy: its file, or a record that is not what its events say."""
    if not (state / "journal.db").exists():
        return []
    with tempfile.TemporaryDirectory() as folder:
        for file in state.glob("journal.db*"):
            shutil.copy(file, folder)
        try:
            database = Database.open(Path(folder) / "journal.db")
        except ConfigurationError as error:
            return [str(error)]
        try:
            replay = replayed(events_in(database))
            kept = {record.id: record for record in records_of(database)}
            wrong = [
                f"the record of {job_id} is not its events'"
                for job_id in replay | kept
                if kept.get(job_id) != replay.get(job_id)
            ]
            return [*database.check(), *map(str, database.aside()), *wrong]
        finally:
            database.close()


class Agent:
    """One boot."""

    def __init__(self, folder: Path, boot: int, options: tuple[str, ...], *, is_last: bool) -> None:
        self._folder = folder
        self._boot = boot
        self._options = options
        self._is_last = is_last
        self._told = Told.of((folder / "told").read_text().splitlines())
        self.has_found = False

    async def run(self) -> None:
        """All of it; returns in the last boot only, or where something was found."""
        state = DISK / "output"
        _phase("checking")
        self._find(damages_of(state))
        _phase("starting")
        begin = time.monotonic()
        with own_cgroup_root(may_be_left=True) as root:
            try:
                async with started(DISK, self._folder / "certificates", root, *self._options) as (server, _process):
                    _phase("ready", seconds=time.monotonic() - begin)
                    await self._use(server)
            except AssertionError as error:  # it was never ready
                self._find([str(error)])
        if not self.has_found:
            self._find(damages_of(state))

    async def _use(self, server: Server) -> None:
        async with server.connect(ADMIN) as admin:
            records = [record async for record in admin.list(pb.ListRequest(page_size=1000))]
            self._find(findings(self._told, records))
            self._count(records)
            for record in records:
                if token_of(record) not in self._told.ended:
                    say(line_ended(token_of(record), record))
            await self._look_at_outputs(admin, records)
            await self._repeat(server)
        if not self._is_last and not self.has_found:
            _phase("loading")
            await load(server, self._boot)

    def _find(self, found: list[str]) -> None:
        self.has_found = self.has_found or bool(found)
        say(json.dumps({"found": found}))

    def _count(self, records: Sequence[pb.JobResponse]) -> None:
        fresh = [record for record in records if token_of(record) not in self._told.ended]
        causes = Counter(record.cause.WhichOneof("kind") or "running" for record in fresh)
        known = sum(token_of(record) in self._told.started for record in fresh)
        _phase("counted", jobs=len(records), fresh=len(fresh), answered=known, causes=dict(causes))

    async def _look_at_outputs(self, admin: Jobs, records: Sequence[pb.JobResponse]) -> None:
        """The output of a job may be lost in part, and is then not told as whole; it is never another's."""
        counts: Counter[str] = Counter()
        for record in records:
            token = token_of(record)
            if token not in self._told.asked or boot_of(token) != self._boot - 1:
                continue
            received, is_whole = await _output_of(admin, record.job_id_response.job_id)
            expected = self._told.asked[token].output
            counts["whole" if received == expected and is_whole else "refused" if not is_whole else "short"] += 1
            if not expected.startswith(received) or (is_whole and len(received) != record.output_bytes):
                self._find([f"the output of {token} is {received!r}, of {record.output_bytes} bytes"])
        _phase("outputs", **counts)

    async def _repeat(self, server: Server) -> None:
        """A Start of a boot before that is asked for again gives its job, or makes it where there is none."""
        known = [self._told.asked[token] for token in self._told.started]
        for asked in (*self._told.in_doubt(), *random.sample(known, min(REPEATED, len(known)))):
            async with server.connect(asked.owner) as jobs:
                job_id = await answered(jobs, asked)
            if (was := self._told.started.get(asked.token, job_id)) != job_id:
                self._find([f"{asked.token} was {was}, and is {job_id} when it is asked for again"])


async def _output_of(jobs: Jobs, job_id: str) -> tuple[bytes, bool]:
    """What of a job's output is to be had, and whether the server says that this is all."""
    received = b""
    try:
        async with jobs.stream_output(job_id) as chunks:
            async for chunk in chunks:
                received += chunk
    except (RpcFailedError, OutputIncomplete, TransportError):
        return received, False
    return received, True


def _phase(name: str, **values: object) -> None:
    say(json.dumps({"phase": name, "at": round(time.monotonic(), 1), **values}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
