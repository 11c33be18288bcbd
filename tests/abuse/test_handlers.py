"""Handlers whose caller has gone: by a reset, a disconnect, a deadline, or a certificate that is no longer valid."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives import serialization

from jobmaster.certs.contexts import client_context
from jobmaster.certs.folder import SERVER_AUTHORITY, certificate_path, key_path
from tests.abuse.attacker import attacking, call, reset
from tests.abuse.program import Program, attacked, bystander
from tests.certs.hostile_certificates import Recipe, mint

pytestmark = pytest.mark.abuse

CALLS: Final = 100
STREAMS: Final = range(1, 1 + 2 * CALLS, 2)
ROUNDS: Final = 20
VALID: Final = datetime.timedelta(seconds=3)
DEADLINE_EXCEEDED: Final = b"4"


async def test_reset_calls(certificates: Path) -> None:
    """The handlers of calls that are reset are gone, all of them, and their connection serves on."""
    async with attacked(certificates) as program:
        before = await program.mark()
        for _ in range(ROUNDS):
            async with attacking(program) as attacker:
                await attacker.send(b"".join(call(stream_id, "Hang") for stream_id in STREAMS))
                await program.until(lambda now: now.running_handlers == CALLS)
                await attacker.send(b"".join(map(reset, STREAMS)))
                await program.until(lambda now: (now.running_handlers, now.streams) == (0, 0))
                await attacker.send(call(STREAMS.stop))
                assert await attacker.answer(STREAMS.stop) is not None
        await program.until_nothing_is_left(before)


async def test_disconnected_calls(certificates: Path) -> None:
    """The handlers of a client that disconnects are gone, all of them, with its connection."""
    async with attacked(certificates) as program:
        before = await program.mark()
        for _ in range(ROUNDS):
            async with attacking(program) as attacker:
                await attacker.send(b"".join(call(stream_id, "Hang") for stream_id in STREAMS))
                await program.until(lambda now: now.running_handlers == CALLS)
            await program.until_nothing_is_left(before)


async def test_deadlines(certificates: Path) -> None:
    """The handlers of calls whose deadline passes are gone, all of them, and each caller is told why."""
    async with attacked(certificates) as program, attacking(program) as attacker:
        for first in range(1, 1 + ROUNDS * 2 * CALLS, 2 * CALLS):
            streams = range(first, first + 2 * CALLS, 2)
            await attacker.send(b"".join(call(stream_id, "Hang", grpc_timeout=b"10m") for stream_id in streams))
            for stream_id in streams:
                answer = await attacker.answer(stream_id)
                assert answer is not None, attacker.goaway
                assert answer.fields[b"grpc-status"] == DEADLINE_EXCEEDED
        await program.until(lambda now: (now.running_handlers, now.streams) == (0, 0))
        assert (await program.report()).bugs == 0


async def test_output_stream_of_one_who_left(certificates: Path) -> None:
    """A stream that is being sent ends with its caller's reset, in the middle of all that is queued for it."""
    async with attacked(certificates) as program, bystander(program) as other:
        before = await program.mark()
        async with other.calling(), attacking(program) as attacker:
            for stream_id in STREAMS[:50]:
                await attacker.send(call(stream_id, "Flood"))
                await attacker.until(lambda: bool(attacker.answers))
                await attacker.send(reset(stream_id))
            await program.until(lambda now: now.streams <= before.streams + 1)
        await program.until_nothing_is_left(before)


async def test_expired_certificate(certificates: Path, tmp_path: Path) -> None:
    """A client whose certificate expires while it is connected is disconnected then, with its calls, and not earlier."""
    async with attacked(certificates) as program, bystander(program) as other:
        before = await program.mark()
        expires = short_lived(certificates, tmp_path)
        async with attacking(program, context=client_context(tmp_path, "client1")) as attacker:
            await attacker.send(call(1, "Hang"))
            await program.until(lambda now: now.running_handlers == 1)
            await attacker.until_closed()
            assert datetime.datetime.now(datetime.UTC) >= expires
            await program.until_nothing_is_left(before)
        await other.echo()
        assert await is_shut_out(program, tmp_path)


def short_lived(certificates: Path, folder: Path) -> datetime.datetime:
    """Makes a certificate of client1 in `folder` that expires soon: when."""
    shutil.copy(certificate_path(certificates, SERVER_AUTHORITY), certificate_path(folder, SERVER_AUTHORITY))
    certificate, key = mint(certificates, Recipe(ends=VALID))
    certificate_path(folder, "client1").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with open(key_path(folder, "client1"), "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(pem)
    return certificate.not_valid_after_utc


async def is_shut_out(program: Program, folder: Path) -> bool:
    """Whether a new connection with that certificate is refused."""
    async with attacking(program, context=client_context(folder, "client1")) as attacker:
        await attacker.send(call(1))
        return await attacker.answer(1) is None
