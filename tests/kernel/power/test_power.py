"""Power cuts: what the server has acknowledged is there at the next boot, and says nothing that was not so."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.kernel import machine
from tests.kernel.machine import RunningGuest
from tests.kernel.power.told import Told

pytestmark = [pytest.mark.kernel, pytest.mark.power]

BOOT_SECONDS: Final = 600.0
"""From a boot to its cut or its end, at most."""
LINES: Final = 150
"""The cut comes when clients have said so many lines at most, and DELAY seconds at most later."""
DELAY: Final = 0.05
RECOVERY_SECONDS: Final = 1.5
"""A cut of the recovery comes within so many seconds of the server's start."""


@dataclass(slots=True)
class Boots:
    """A guest's disk and what was heard of it over several boots."""

    folder: Path
    certificates: Path
    options: tuple[str, ...] = ()
    told: list[str] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)
    """Documents that are no lines of `told`."""
    boots: int = 0

    @property
    def found(self) -> list[str]:
        """All that was found wrong."""
        return [text for document in self.heard for text in document.get("found", [])]

    def phases(self, name: str) -> list[dict[str, Any]]:
        """What was said of a phase, in each boot that came to it."""
        return [document for document in self.heard if document.get("phase") == name]

    async def boot(self, cut_after: str | None) -> None:
        """Boots once; the power is cut some time after a phase has begun, or (None) the guest ends by itself."""
        with tempfile.TemporaryDirectory(prefix="jobmaster-guest-") as temporary:
            control = Path(temporary).resolve()
            shutil.copytree(self.certificates, control / "certificates")
            (control / "told").write_text("".join(f"{line}\n" for line in self.told))
            options = [*self.options, *(["--last"] if cut_after is None else [])]
            agent = [sys.executable, "-m", "tests.kernel.power.agent", str(control), str(self.boots), *options]
            (control / "script").write_text(machine.guest_script(agent))
            command = machine.boot_command("power", control)
            with (self.folder / "kernel.log").open("wb") as log:
                async with machine.booted(command, self.folder, log) as guest:
                    await self._listen(guest, cut_after)
            if cut_after is None and not self.found:
                assert (control / "status").read_text() == "0\n"
        self.boots += 1

    async def _listen(self, guest: RunningGuest, cut_after: str | None) -> None:
        lines = random.randrange(1, LINES) if cut_after == "loading" else 0
        seconds = random.uniform(0, RECOVERY_SECONDS) if cut_after == "starting" else random.uniform(0, DELAY)
        is_due = was_cut = False
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + BOOT_SECONDS

            async def cut() -> None:
                nonlocal was_cut
                await trio.sleep(seconds)
                was_cut = True
                guest.cut_power()

            async for line in _lines(guest.console):
                self._hear(line)
                if not is_due and self._phase() == cut_after:
                    is_due = lines == 0
                    lines -= 1
                    if is_due:
                        nursery.start_soon(cut)
            nursery.cancel_scope.cancel()
        heard = [document for document in self.heard if document["boot"] == self.boots]
        assert trio.current_time() < nursery.cancel_scope.deadline, f"boot {self.boots} hangs: {heard}"
        assert was_cut or cut_after is None or self.found, f"boot {self.boots} ended by itself: {self.heard[-3:]}"

    def _hear(self, line: str) -> None:
        if Told().add(line):
            self.told.append(line)
        elif line.startswith('{"'):
            self.heard.append({**json.loads(line), "boot": self.boots})
        else:
            print(f"boot {self.boots}: {line}", flush=True)

    def _phase(self) -> str:
        return next((document["phase"] for document in reversed(self.heard) if "phase" in document), "")


async def _lines(console: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    """The lines of a console, whole ones only."""
    rest = b""
    async for chunk in console:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")


def report(boots: Boots) -> str:
    """What was met, in numbers."""
    told = Told.of(boots.told)
    counted = boots.phases("counted")
    causes, outputs = Counter[str](), Counter[str]()
    for document in counted:
        causes.update(document["causes"])
    for document in boots.phases("outputs"):
        outputs.update({name: count for name, count in document.items() if isinstance(count, int) and name != "boot"})
    ready = [document["seconds"] for document in boots.phases("ready")] or [0.0]
    fresh, answered = (sum(document[name] for document in counted) for name in ("fresh", "answered"))
    return (
        f"{boots.boots - 1} power cuts: {len(told.asked)} starts asked for, {len(told.started)} answered; after the cuts "
        f"{fresh} jobs whose end nobody was told, {answered} of them answered: {dict(causes)}; outputs {dict(outputs)}; "
        f"ready after {statistics.median(ready):.1f} s in the middle, {max(ready):.1f} at most"
    )


@pytest.fixture
def boots(tmp_path: Path, certificates: Path, kernel: None) -> Boots:
    """A disk for boots."""
    machine.make_disk(tmp_path / "disk.img")
    return Boots(tmp_path, certificates)


async def test_what_was_acknowledged_is_there(boots: Boots, pytestconfig: pytest.Config) -> None:
    """After each power cut the journal is whole; each acknowledged job is there once, with its own or a lost end."""
    cuts = pytestconfig.getoption("--cuts")
    for number in range(cuts):
        await boots.boot("starting" if number % 5 == 4 else "loading")
        assert boots.found == [], report(boots)
    await boots.boot(None)
    print(report(boots))
    assert boots.found == []
    assert boots.phases("counted")


async def test_what_was_not_synced_is_gone(boots: Boots) -> None:
    """The same cut takes acknowledged jobs where the journal does not wait for the disk: these tests would see a loss."""
    boots.options = ("--durability", "off")
    await boots.boot("loading")
    await boots.boot(None)
    assert boots.found
