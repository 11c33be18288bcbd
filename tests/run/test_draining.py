"""An admin has the server take no new jobs, for a time or until it takes them again."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from jobmaster.errors import InvalidRequest, NotRemembered, PermissionRefused, StartsRefused
from jobmaster.job.specification import JobSpecification
from jobmaster.run import draining
from jobmaster.run.draining import FILE, MOST_MS, Drain, Draining
from tests.run.conftest import Machine
from tests.run.identities import ADMIN, CLIENT1
from tests.run.scripted import Script


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is written at once: the clock that jumps knows no threads."""

    async def run(_limiter: object, function: object, *arguments: object, abandon: bool) -> object:
        assert abandon
        await trio.lowlevel.checkpoint()
        assert callable(function)
        return function(*arguments)

    monkeypatch.setattr(draining, "run_in_thread", run)


@pytest.mark.usefixtures("in_turn")
async def test_no_new_jobs(machine: Machine) -> None:
    """Starts are refused with the note, but for one whose request has a job; that goes on, and others come when all is over."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=100), request_id="first")
        drain = await registry.refuse_starts(ADMIN, "a disk is replaced", 0)
        assert (registry.starts_refused,) == (drain,)
        with pytest.raises(StartsRefused, match="takes no new jobs: a disk is replaced"):
            await machine.start(registry, CLIENT1)
        assert await registry.start(CLIENT1, JobSpecification(command="command-0"), "first") == job_id
        assert registry.running == 1
        await registry.accept_starts(ADMIN)
        assert registry.starts_refused is None
        await machine.start(registry, CLIENT1)
        assert registry.running == 2


@pytest.mark.usefixtures("in_turn")
async def test_it_outlasts_the_server(machine: Machine) -> None:
    """The next one takes no jobs either, whoever may start them, until it is told to; and so does one after that."""
    async with machine.registry() as registry:
        await registry.refuse_starts(ADMIN, "note", 0)
    for _ in range(2):
        async with machine.registry() as registry:
            refused = registry.starts_refused
            assert refused is not None
            assert (refused.note, refused.by) == ("note", "superuser")
            with pytest.raises(StartsRefused):
                await machine.start(registry, ADMIN)
    async with machine.registry() as registry:
        await registry.accept_starts(ADMIN)
    async with machine.registry() as registry:
        await machine.start(registry, CLIENT1)


@pytest.mark.usefixtures("in_turn")
async def test_who_may(machine: Machine) -> None:
    """An admin alone; what can't be meant is refused, and nothing changes."""
    async with machine.registry() as registry:
        for call in (registry.refuse_starts(CLIENT1, "", 0), registry.accept_starts(CLIENT1)):
            with pytest.raises(PermissionRefused):
                await call
        for note, timeout in (("x" * 201, 0), ("two\nlines", 0), ("\x1b[2J", 0), ("", MOST_MS + 1)):
            with pytest.raises(InvalidRequest):
                await registry.refuse_starts(ADMIN, note, timeout)
        assert registry.starts_refused is None


async def test_it_ends_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When its time is over, also where that passes without a server; and the log has who, why, and when it ended."""
    caplog.set_level(logging.WARNING)
    now = datetime.now(UTC)
    found = Draining(tmp_path)
    await found.say(Drain(note="why", by="superuser", at=now, until=now + timedelta(hours=1)), "superuser")
    with pytest.raises(StartsRefused, match=r"until .* UTC: why"):
        found.require_none()
    document = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**document, "until": (now - timedelta(seconds=1)).isoformat()}))
    Draining(tmp_path).require_none()
    found._drain = Drain(note="", by="superuser", at=now, until=now)
    found.require_none()
    assert "as superuser asked" in caplog.text
    assert "the time of the drain is over" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{}", b'{"version": 2, "drains": false}', b"[" * 9_000, b"\xff", b'{"version": 1}'),
        b'{"version": 1, "drains": true, "note": "", "by": "", "at": "0001-01-01T00:00:00+23:59", "until": null}',
    ],
)
def test_a_damaged_file(tmp_path: Path, text: bytes) -> None:
    """Nobody knows what was asked for: no jobs are taken, and the note says what to do."""
    (tmp_path / FILE).write_bytes(text)
    with pytest.raises(StartsRefused, match="undrain"):
        Draining(tmp_path).require_none()


async def test_a_disk_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was said holds, and who said it is told that it is not durable."""
    found = Draining(tmp_path / "gone")
    with pytest.raises(NotRemembered, match="ask again"):
        await found.say(Drain.asked("note", "superuser", 0), "superuser")
    with pytest.raises(StartsRefused, match="note"):
        found.require_none()
    assert "cannot be written" in caplog.text
