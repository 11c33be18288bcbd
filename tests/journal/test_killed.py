"""A server that is killed loses nothing that it has acknowledged."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from jobmaster.journal.stored import Removed
from tests.journal.jobs import database_in, records
from tests.journal.replay import events_in, replayed

ROUNDS: Final = 10


def acknowledged_until_killed(path: Path, lines: int) -> list[tuple[int, str, str]]:
    """Runs a journal, kills it when it has printed so many lines, and returns all that it printed."""
    command = [sys.executable, "-m", "tests.journal.killed", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.readlines()
    assert told[0], "it has ended by itself"
    whole = [line.split() for line in told if line.endswith("\n")]
    return [(int(seq), job_id, name) for seq, job_id, name in whole]


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_nothing_acknowledged_is_lost(tmp_path_factory: pytest.TempPathFactory, round_: int) -> None:
    """Each event that was acknowledged is there, or its job's removal; and records are what their events say."""
    folder = tmp_path_factory.getbasetemp() / "killed"  # one journal for all rounds
    folder.mkdir(exist_ok=True)
    told = acknowledged_until_killed(folder / "journal.db", random.randint(1, 600))
    database = database_in(folder)
    try:
        events = events_in(database)
        there = {event.seq: type(event.event).__name__ for event in events}
        removed = {event.job_id for event in events if isinstance(event.event, Removed)}
        lost = [(seq, job_id, name) for seq, job_id, name in told if job_id not in removed and there.get(seq) != name]
        assert lost == [], f"of {len(told)}"
        assert database.last_seq >= max(seq for seq, _, _ in told)
        assert {record.id: record for record in records(database)} == replayed(events)
        assert database.check() == []
        assert database.aside() == []
    finally:
        database.close()
