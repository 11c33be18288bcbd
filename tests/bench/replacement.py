"""How long a server is missed that is killed, or replaced on purpose, while its jobs go on: as those see it whom it serves.

Neither has a peer, since no plain server has jobs that outlive it. What is measured is also checked: a job that did not go
on, or a byte that a follower did not receive once, ends the benchmark (`replacing_client`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from tests.bench.load import Client, Kind, Load
from tests.bench.rounds import take_turns, tell
from tests.bench.servers import Place, Server
from tests.bench.table import Better, Row, Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """How many jobs of one client run when the server is killed, and how often that is done."""

    own: Place
    server: Server
    rounds: int
    jobs: int

    def rows(self) -> Iterator[Row]:
        """Kills the server and measures; one row."""
        (outcomes,) = take_turns(self.own.clients, self.rounds, _load(self.own, self.server, Kind.ADOPT, self.jobs))
        yield Row(
            name=f"server killed to {self.jobs} running jobs adopted and told",
            unit="s",
            better=Better.LOWER,
            jobmaster=Runs(values=tuple(outcome.seconds for outcome in outcomes)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrades:
    """How many jobs write, each with a follower, over how many upgrades in a row, and with which pauses around each."""

    own: Place
    server: Server
    upgrades: int
    jobs: int
    pauses: tuple[float, ...]

    def rows(self) -> Iterator[Row]:
        """Upgrades the server and measures; two rows for each pause."""
        for pause in self.pauses:
            tell(f"upgrade: {self.upgrades} times, {pause:g} s apart")
            load = _load(self.own, self.server, Kind.UPGRADE, self.upgrades, in_flight=self.jobs, pause=pause)
            silences = self.own.clients.run(load)[0].latencies
            yield self._row(pause, "longest silence of a follower", max(silences))
            yield self._row(pause, "longest silence over the median upgrade", median(silences))

    def _row(self, pause: float, what: str, seconds: float) -> Row:
        apart = f"{pause:g} s apart" if pause else "without a pause"
        return Row(
            name=f"{self.upgrades} upgrades {apart} under {self.jobs} writing jobs: {what}",
            unit="ms",
            better=Better.LOWER,
            jobmaster=Runs(values=(1000 * seconds,)),
        )


def _load(own: Place, server: Server, kind: Kind, count: int, *, in_flight: int = 1, pause: float = 0.0) -> Load:
    return Load(
        kind=kind,
        client=Client.JOBMASTER,
        port=server.port,
        server=server.pid,
        launcher=server.launcher,
        certificates=own.certificates,
        count=count,
        in_flight=in_flight,
        pause=pause,
    )
