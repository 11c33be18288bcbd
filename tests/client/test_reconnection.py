"""Following a job of a real server over a network that cuts connections."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jobmaster.client import Jobs, OutputIncomplete, RpcFailedError, connect, patience
from jobmaster.errors import TransportError
from jobmaster.output.cap import SMALLEST
from tests.harness import Server, output_of, serving
from tests.network import Network, network

NUMBERS = 200_000


def lines(first: int, last: int) -> bytes:
    """What `seq` writes."""
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


OUTPUT = lines(1, NUMBERS)  # 1.3 MB


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.001)


@asynccontextmanager
async def connected(proxy: Network, certificates: Path, *, seconds: float = 30.0) -> AsyncIterator[Jobs]:
    """A client by way of the proxy, with so much patience."""
    async with connect("127.0.0.1", proxy.port, folder=certificates, name="client1", patience=seconds) as jobs:
        yield jobs


async def start_numbers(server: Server) -> str:
    """A job that writes `OUTPUT`, when it has ended."""
    async with server.connect() as jobs:
        job_id = await jobs.start("seq", "1", str(NUMBERS))
        await output_of(jobs, job_id)
    return job_id


@pytest.mark.parametrize(
    "cuts",
    [[100_000], [100_000, 100_000, 300_000], [20_000, 600_001, 4_000, 300_000], [1_280_000]],
    ids=str,
)
async def test_cut_in_the_middle(server: Server, certificates: Path, cuts: list[int]) -> None:
    """Whatever the connections bring until they are cut, a follower gets each byte once and none is missing."""
    job_id = await start_numbers(server)
    async with network(server.port, cuts) as proxy, connected(proxy, certificates) as jobs:
        assert await output_of(jobs, job_id) == OUTPUT
    assert proxy.connections == len(cuts) + 1


async def test_cut_while_it_runs(server: Server, certificates: Path) -> None:
    """A follower of a live job goes on on a new connection, silently where there is nothing new, to the job's end."""
    async with network(server.port, []) as proxy, connected(proxy, certificates) as jobs, server.connect() as direct:
        job_id = await direct.start("sh", "-c", "seq 1 20000; exec sleep 1000")
        received = b""
        async with jobs.stream_output(job_id) as chunks:
            async for chunk in chunks:
                received += chunk
                if received.endswith(b"\n20000\n"):
                    proxy.cut()
                    await direct.stop(job_id)
    assert received == lines(1, 20_000)
    assert proxy.connections == 2


async def test_cut_while_the_middle_is_dropped(tmp_path: Path, certificates: Path) -> None:
    """Cut while the middle is dropped, a follower gets each byte that is left once, and the count of those it never had."""
    first, output = lines(1, 30_000), lines(1, 300_000)
    async with (
        serving(tmp_path, certificates, "--output-max", str(SMALLEST)) as server,
        network(server.port, []) as proxy,
        connected(proxy, certificates) as jobs,
        server.connect() as direct,
    ):
        job_id = await direct.start("sh", "-c", "trap 'seq 30001 300000; exit 0' USR1; seq 1 30000; sleep 1000 & wait")
        received, dropped = b"", 0

        async def follow() -> None:
            nonlocal received, dropped
            async with jobs.stream_output(job_id) as chunks:
                async for chunk in chunks:
                    received += chunk
                    if received == first:
                        proxy.cut()
                        os.kill((await direct.status(job_id)).pid, signal.SIGUSR1)
                        dropped = (await direct.wait(job_id)).output_bytes_dropped

        with pytest.raises(RpcFailedError, match="more than is kept") as failure:
            await follow()
    tail = received[len(first) :]
    gone = len(output) - len(received)
    assert received.startswith(first)
    assert output.endswith(tail)
    assert 0 < len(tail) <= SMALLEST
    assert f"does not have {gone} bytes" in failure.value.status.status_message
    assert gone < dropped, "it had some of those before they were dropped"
    assert proxy.connections == 2


async def test_a_network_that_never_gets_further(server: Server, certificates: Path) -> None:
    """Where every connection is cut before a new byte has come, the follower gives up when its patience is over."""
    job_id = await start_numbers(server)
    cuts = [100_000, *[4_000] * 10_000]
    async with network(server.port, cuts) as proxy, connected(proxy, certificates, seconds=0.05) as jobs:
        with pytest.raises(TransportError):
            await output_of(jobs, job_id)
    assert 1 < proxy.connections < 10_000


async def test_another_server_in_its_place(tmp_path: Path, server: Server, certificates: Path) -> None:
    """A server that was restarted does not know the job: the follower hears that its output ends there."""
    (tmp_path / "other").mkdir()
    async with serving(tmp_path / "other", certificates) as other, server.connect() as direct:
        job_id = await direct.start("sh", "-c", "echo up; exec sleep 1000")
        async with (
            network(server.port, []) as proxy,
            connected(proxy, certificates) as jobs,
            jobs.stream_output(job_id) as chunks,
        ):
            assert await anext(chunks) == b"up\n"
            proxy.target = other.port
            proxy.cut()
            with pytest.raises(OutputIncomplete, match="after 3 bytes"):
                await anext(chunks)


async def bytes_of_a_start(server: Server, certificates: Path) -> int:
    """How many bytes a server has sent when a first call is answered."""
    async with network(server.port, []) as proxy, connected(proxy, certificates) as jobs:
        await jobs.start("true")
        return proxy.passed


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.95, 0.98])
async def test_cut_before_the_first_answer(server: Server, certificates: Path, share: float) -> None:
    """First connections that break, in the handshake or while a start is answered, are followed by others; one job is started."""
    cut = int(share * await bytes_of_a_start(server, certificates))
    async with network(server.port, [cut] * 3) as proxy, connected(proxy, certificates) as jobs:
        job_id = await jobs.start("true", request_id="once")
    assert proxy.connections > 3
    async with server.connect() as jobs:
        ids = [record.job_id_response.job_id async for record in jobs.list()]
        assert len(ids) == 2
        assert ids[0] == job_id


async def test_nobody_comes_back(server: Server, certificates: Path) -> None:
    """Where every connection breaks in its handshake, the client gives up when its patience is over, and says so."""
    async with network(server.port, [100] * 10_000) as proxy:
        with pytest.raises(TransportError, match="closed the connection in the handshake"):
            async with connected(proxy, certificates, seconds=0.05):
                pass
    assert 1 < proxy.connections < 10_000
