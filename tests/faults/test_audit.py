"""A hostile hour: clients of every kind, allowed and refused, while servers are killed; then the audit is read."""

from __future__ import annotations

import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import trio
from google.protobuf.message import Message

from jobmaster.audit.names import AUDIT, HANDSHAKES
from jobmaster.certs.contexts import client_context
from jobmaster.errors import TransportError
from jobmaster.grpc.channel import Channel, open_channel
from jobmaster.grpc.purerpc_adapter import Client, RpcFailedError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal.journal import open_journal
from tests.audit.entries import entries_in
from tests.certs.hostile_certificates import make
from tests.faults.account import Account, Key, problems_of_trail
from tests.faults.conftest import Extent
from tests.faults.server import RAISE_SIGNAL
from tests.faults.service import Service, running

pytestmark = pytest.mark.faults

SERVICE: Final = "jobmaster.jobs.v1.JobService"
CLIENTS: Final = ("client1", "client2", "client3", "superuser")
CALLS_BETWEEN: Final = 40
"""Calls that are answered between two deaths, at least."""
ANSWERS: Final[dict[str, type[Message]]] = {
    "Status": pb.JobResponse,
    "Stop": pb.JobResponse,
    "Wait": pb.JobResponse,
    "Remove": pb.RemoveResponse,
    "StreamOutput": pb.JobOutputResponse,
}
"""The methods that name a job."""


class Hour:
    """Clients at work until `over` is set."""

    def __init__(self, service: Service, certificates: Path, chance: random.Random) -> None:
        self.account = Account()
        self.over = trio.Event()
        self.refused = 0
        """Connections that were, for their certificates."""
        self._answered = 0
        self._service = service
        self._certificates = certificates
        self._chance = chance
        self._count = 0

    async def wait_answered(self, count: int) -> None:
        """Returns when so many calls more have been answered."""
        wanted = self._answered + count
        await self._service.wait(lambda: self._answered >= wanted, "calls are not answered")

    async def work(self, worker: int) -> None:
        """One client, with a call at a time; connects again where it has to."""
        name = CLIENTS[worker % len(CLIENTS)]
        context = client_context(self._certificates, name)
        while not self.over.is_set():
            with suppress(TransportError):
                async with open_channel("localhost", self._service.port, context) as channel:
                    while not self.over.is_set():
                        await self._call(worker, name, channel)

    async def knock(self) -> None:
        """A stranger, whose certificate has expired."""
        context = make(self._certificates, "expired").context()
        while not self.over.is_set():
            with suppress(TransportError, RpcFailedError):
                async with open_channel("localhost", self._service.port, context) as channel:
                    await once(channel, "Status", pb.JobIDRequest(), pb.JobResponse)
            self.refused += 1

    async def _call(self, worker: int, name: str, channel: Channel) -> None:
        self._count += 1
        number = f"{self._count:027d}"
        match self._chance.randrange(8):
            case 0:
                await self._start(worker, name, channel, number)
            case 1:
                request = pb.JobCreateRequest(command=f"/no/{number}")
                await self._make(worker, Key(name, "Start", request.command), channel, request, pb.JobID)
            case 2:
                request = pb.JobCreateRequest(command="true", args=[f"{number}\0"])
                await self._make(worker, Key(name, "Start", request.args[0]), channel, request, pb.JobID)
            case 3:
                about = pb.JobIDRequest(job_id_request=pb.JobID(job_id=number))
                await self._make(worker, Key(name, "Nope", number), channel, about, pb.JobResponse, is_told=False)
            case _:
                method = self._chance.choice(list(ANSWERS))
                about = pb.JobIDRequest(job_id_request=pb.JobID(job_id=number))
                await self._make(worker, Key(name, method, number), channel, about, ANSWERS[method])

    async def _start(self, worker: int, name: str, channel: Channel, number: str) -> None:
        """A job, whose caller then leaves a call that waits for it, and stops and removes it."""
        request = pb.JobCreateRequest(command="sh", args=["-c", "sleep 1000", number])
        job = await self._make(worker, Key(name, "Start", number), channel, request, pb.JobID)
        if not isinstance(job, pb.JobID):
            return
        about = pb.JobIDRequest(job_id_request=job)
        with trio.move_on_after(self._chance.uniform(0, 0.02)):
            await self._make(worker, Key(name, "Wait", job.job_id), channel, about, pb.JobResponse)
        for method in ("Status", "Stop", "Remove"):
            await self._make(worker, Key(name, method, job.job_id), channel, about, ANSWERS[method])

    async def _make(
        self,
        worker: int,
        key: Key,
        channel: Channel,
        request: Message,
        answer: type[Message],
        *,
        is_told: bool = True,
    ) -> Message | None:
        if is_told:
            self.account.begins(key)
        try:
            message = await once(channel, key.method, request, answer)
        except RpcFailedError as error:
            outcome, message = error.status.status_code.name, None
        else:
            outcome = "OK"
        if is_told:
            self.account.ends(worker, key, outcome)
        self._answered += 1
        return message


async def once(channel: Channel, method: str, request: Message, answer: type[Message]) -> Message | None:
    """A call that is made once; the last message of its answer."""
    call = await Client(SERVICE, channel).rpc(method, type(request), answer)
    try:
        await call.send_message(request)
        await call.close()
        last = None
        while (message := await call.receive_message()) is not None:
            last = message
    except trio.Cancelled:
        call.reset()
        raise
    if call.end_status.status_code.name != "OK":
        raise RpcFailedError(call.end_status)
    return last


async def test_every_call_of_a_hostile_hour(
    tmp_path: Path, certificates: Path, extent: Extent, chance: random.Random
) -> None:
    """Each is in the audit once, in order, with the outcome that its client saw, or as unknown; and each event of a job."""
    folder = tmp_path / "output"
    options = ("--grace", "0.1", "--audit-size", "64K", "--audit-files", "0")
    deaths = [signal.SIGKILL] * extent.kills + [RAISE_SIGNAL] * (extent.kills // 4)
    chance.shuffle(deaths)
    async with running(tmp_path, certificates, *options) as service:
        hour = Hour(service, certificates, chance)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hour.knock)
            for worker in range(8):
                nursery.start_soon(hour.work, worker)
            for number in deaths:
                await hour.wait_answered(CALLS_BETWEEN)
                await trio.sleep(chance.uniform(0, 0.1))
                await service.replace(number)
            await hour.wait_answered(CALLS_BETWEEN)
            hour.over.set()
        assert await service.stop() == 0, service.complaints()
    async with open_journal(folder / "journal.db") as journal:
        last = journal.last_seq
    entries = entries_in(folder / AUDIT)
    wrong = hour.account.problems(entries, is_cut=True) + problems_of_trail(entries, last)
    handshakes = entries_in(folder / AUDIT, HANDSHAKES)
    assert [entry["sequence"] for entry in handshakes] == list(range(1, len(handshakes) + 1))
    files = len(list((folder / AUDIT).glob("audit-*.jsonl")))
    print(
        f"{len(deaths)} deaths, {len(hour.account.outcomes)} calls, {hour.refused} refused connections, "
        f"{len(entries)} entries, {last} events, {files} files"
    )
    assert not wrong, "\n".join(wrong[:20]) + f"\n{len(wrong)} in all"
    assert files >= len(entries) // 200  # an entry has 400 bytes or more
