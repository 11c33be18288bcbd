"""The callers: `python -m tests.scale.active PLAN` makes Status calls on connections of their own, and says `Latencies`.

Each caller asks once in `INTERVAL` seconds, from a moment of its own, whatever the answers take: what is measured is
what a call waits for, not how many calls a server can do. The connections stay until stdin ends.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Final, Self

import trio

from jobmaster.client import Jobs, connect
from tests.scale.idle import NAMES

INTERVAL: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the program is told to do: `count` callers for `seconds`, and `lifetime` seconds of life at most."""

    port: int
    certificates: Path
    count: int
    seconds: float
    lifetime: float

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps({**dataclasses.asdict(self), "certificates": str(self.certificates)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """From the command line."""
        fields = json.loads(text)
        return cls(**{**fields, "certificates": Path(fields["certificates"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Milliseconds from a call to its answer."""

    calls: int
    p50: float
    p99: float
    worst: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """From two or more measured times."""
        cuts = quantiles(seconds, n=100, method="inclusive")
        return cls(calls=len(seconds), p50=cuts[49] * 1000, p99=cuts[98] * 1000, worst=max(seconds) * 1000)


async def _call(jobs: Jobs, job_id: str, begins: float, ends: float, latencies: list[float]) -> None:
    moment = begins
    while moment < ends:
        await trio.sleep_until(moment)
        begun = time.perf_counter()
        await jobs.status(job_id)
        latencies.append(time.perf_counter() - begun)
        moment = max(moment + INTERVAL, trio.current_time())


async def _measure(plan: Plan, connected: Sequence[Jobs], job_id: str) -> Latencies:
    latencies: list[float] = []
    now = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number, jobs in enumerate(connected):
            offset = INTERVAL * number / plan.count
            nursery.start_soon(_call, jobs, job_id, now + offset, now + offset + plan.seconds, latencies)
    return Latencies.of(latencies)


async def _run(plan: Plan) -> None:
    with trio.fail_after(plan.lifetime):
        async with AsyncExitStack() as stack:
            connected = [
                await stack.enter_async_context(
                    connect("localhost", plan.port, folder=plan.certificates, name=NAMES[0])
                )
                for _ in range(plan.count)
            ]
            job_id = await connected[0].start("true")
            print(json.dumps(dataclasses.asdict(await _measure(plan, connected, job_id))), flush=True)
            await trio.lowlevel.wait_readable(sys.stdin.fileno())  # at its end too


def main() -> None:
    """Does the plan of the command line."""
    trio.run(_run, Plan.from_json(sys.argv[1]))


if __name__ == "__main__":
    main()
