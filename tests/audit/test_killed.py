"""A server that is killed leaves an audit that the next one completes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from jobmaster.audit.audit import open_audit
from jobmaster.journal.journal import open_journal
from tests.audit.entries import entries_in
from tests.audit.killed import BOUNDS
from tests.audit.opened import folder_for

ROUNDS: Final = 8


def begun_until_killed(folder: Path, count: int) -> list[int]:
    """Runs an audit, kills it when it has begun so many calls, and returns the numbers of those that it told."""
    command = [sys.executable, "-m", "tests.audit.killed", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(count)]
        process.kill()
        told += process.stdout.readlines()
    assert told[0], "it has ended by itself"
    return [int(line) for line in told if line.endswith("\n")]


async def test_every_call_has_one_end_and_every_change_is_there_once(tmp_path: Path) -> None:
    """Whenever a server is killed: its own end, or one that is unknown; changes of jobs in order; and numbers without a hole."""
    told: list[int] = []
    for _ in range(ROUNDS):
        told += begun_until_killed(tmp_path, random.randint(1, 150))
    async with (
        open_journal(tmp_path / "journal.db") as journal,
        open_audit(folder_for(tmp_path / "audit", BOUNDS), journal, "1"),
    ):
        last = journal.last_seq
    found = entries_in(tmp_path / "audit")
    begun = {entry["sequence"] for entry in found if entry["kind"] == "begun"}
    ends = Counter(entry["begun"] for entry in found if entry["kind"] == "call")
    unknown = [entry for entry in found if entry.get("outcome") == "unknown"]
    assert set(told) <= begun
    assert ends == Counter(begun)
    assert 0 < len(unknown) <= 4 * ROUNDS
    assert [entry["sequence"] for entry in found] == list(range(1, len(found) + 1))
    assert [entry["journal_sequence"] for entry in found if entry["kind"] == "job"] == list(range(1, last + 1))
