"""Clients that start, await and stop jobs, and say each step on standard output."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import trio

from jobmaster.client import Jobs, RpcFailedError
from jobmaster.grpc.purerpc_adapter import StatusCode
from tests.harness import Server
from tests.kernel.power.told import (
    SLEEPS,
    Asked,
    line_asked,
    line_ended,
    line_refused,
    line_started,
    line_to_stop,
    new_token,
)

OWNERS: Final = ("client1", "client2")
ADMIN: Final = "superuser"
SHORT: Final = 'echo "$1"; exit {code}'
KILLED: Final = 'echo "$1"; kill -KILL $$'
LONG: Final = 'echo "$1"; exec sleep 1000000'
SLEEPERS: Final = 4
"""Jobs of one client that sleep at a time; the oldest is stopped to make room."""


def say(line: str) -> None:
    """Writes a line at once, and as a whole."""
    os.write(1, f"{line}\n".encode())


async def answered(jobs: Jobs, asked: Asked) -> str | None:
    """Starts it and says what the server has answered: its id, or None where it was refused.

    A guest that its host starves may not execute a command within the server's ten seconds.
    """
    try:
        job_id = await jobs.start(asked.command, *asked.args, request_id=asked.token)
    except RpcFailedError as error:
        if error.status.status_code is not StatusCode.FAILED_PRECONDITION:
            raise
        say(line_refused(asked.token))
        return None
    say(line_started(asked.token, job_id))
    return job_id


@dataclass(frozen=True, slots=True)
class Client:
    """One of the owners, connected."""

    name: str
    jobs: Jobs
    admin: Jobs
    boot: int
    numbers: Iterator[int]

    def asked(self, script: str, end: str) -> Asked:
        """A new Start, which runs a shell script."""
        token = new_token(self.name, self.boot, next(self.numbers))
        return Asked(token=token, owner=self.name, command="sh", args=("-c", script, "sh", token), end=end)

    async def start(self, asked: Asked) -> str | None:
        """Asks for it, and says so before."""
        say(line_asked(asked))
        return await answered(self.jobs, asked)

    async def run_short_ones(self) -> None:
        """Jobs that end by themselves, one after the other."""
        while True:
            if random.random() < 0.2:
                asked = self.asked(KILLED, "signalled 9")
            else:
                code = random.randrange(256)
                asked = self.asked(SHORT.format(code=code), f"exited {code}")
            job_id = await self.start(asked)
            if job_id is not None:
                say(line_ended(asked.token, await self.jobs.wait(job_id)))

    async def run_long_ones(self) -> None:
        """Jobs that sleep until they are stopped, by their owner or by the admin."""
        sleepers: list[tuple[Asked, str]] = []
        while True:
            asked = self.asked(LONG, SLEEPS)
            job_id = await self.start(asked)
            if job_id is not None:
                sleepers.append((asked, job_id))
            if len(sleepers) > SLEEPERS:
                oldest, job_id = sleepers.pop(0)
                name, jobs = random.choice(((self.name, self.jobs), (ADMIN, self.admin)))
                say(line_to_stop(oldest.token, name))
                say(line_ended(oldest.token, await jobs.stop(job_id)))


async def load(server: Server, boot: int) -> None:
    """Loads the server until the power is cut."""
    async with server.connect(ADMIN) as admin, trio.open_nursery() as nursery:
        for name in OWNERS:
            nursery.start_soon(_run_client, server, name, admin, boot, nursery)
        await trio.sleep_forever()


async def _run_client(server: Server, name: str, admin: Jobs, boot: int, nursery: trio.Nursery) -> None:
    async with server.connect(name) as jobs:
        client = Client(name, jobs, admin, boot, itertools.count())
        nursery.start_soon(client.run_short_ones)
        nursery.start_soon(client.run_short_ones)
        await client.run_long_ones()
