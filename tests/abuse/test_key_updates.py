"""A client that changes its keys in the middle of a stream, and has the server change its own: `openssl s_client`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.certs.folder import SERVER_AUTHORITY, certificate_path, key_path
from tests.abuse.attacker import (
    ACK,
    INITIAL_WINDOW_SIZE,
    LARGEST_WINDOW,
    PREFACE,
    SETTINGS,
    call,
    frame,
    settings,
    window_update,
)
from tests.abuse.program import HANG_GUARD, attacked

pytestmark = pytest.mark.abuse

UPDATES: Final = 100
BETWEEN: Final = 512 * 1024
"""Bytes of the stream from one to the next."""
KEY_UPDATE: Final = b"K\n"
"""The command of s_client for one that the other side has to answer."""


OPENING: Final = (
    PREFACE
    + settings((INITIAL_WINDOW_SIZE, LARGEST_WINDOW))
    + frame(SETTINGS, flags=ACK)
    + window_update(0, LARGEST_WINDOW - 65_535)
    + call(1, "Output")
)


async def test_key_updates_in_bulk_data(certificates: Path, tmp_path: Path) -> None:
    """Whatever keys are changed in the middle of a stream, its records are sent in the order of their encryption."""
    words = tmp_path / "words"
    async with attacked(certificates) as program:
        with words.open("wb") as stderr:
            client = await trio.lowlevel.open_process(
                s_client(certificates, program.port), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )
        assert client.stdio is not None
        try:
            with trio.fail_after(HANG_GUARD):
                await read_until(client.stdio, b"Verify return code: 0 (ok)")
                await client.stdio.send_all(OPENING)
                for _ in range(UPDATES):
                    await read(client.stdio, BETWEEN)
                    await client.stdio.send_all(KEY_UPDATE)
                await read(client.stdio, BETWEEN)
        finally:
            client.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + HANG_GUARD):
                await client.wait()
                await client.stdio.aclose()
    assert words.read_bytes().count(b"KEYUPDATE") > 1


def s_client(certificates: Path, port: int) -> list[str]:
    """The command of such a client."""
    command = f"openssl s_client -connect 127.0.0.1:{port} -alpn h2 -verify_return_error".split()
    files = {
        "-CAfile": certificate_path(certificates, SERVER_AUTHORITY),
        "-cert": certificate_path(certificates, "client1"),
        "-key": key_path(certificates, "client1"),
    }
    return [*command, *(str(word) for option in files.items() for word in option)]


async def read(pipe: trio.abc.ReceiveStream, count: int) -> None:
    """Takes at least so many bytes."""
    while count > 0:
        data = await pipe.receive_some()
        assert data, "the client gave up: it could not read what it was sent"
        count -= len(data)


async def read_until(pipe: trio.abc.ReceiveStream, words: bytes) -> None:
    """Takes bytes until those have come."""
    taken = b""
    while words not in taken:
        data = await pipe.receive_some()
        assert data, f"the client gave up: {taken!r}"
        taken += data
