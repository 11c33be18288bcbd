"""What the outputs of all jobs take of the disk, by client, and whose is to go first. Pure.

Some 200 bytes of memory for each output that takes any: 2 MB at 10,000 ended jobs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from jobmaster.job.identifier import JobId


@dataclass(frozen=True, slots=True)
class Victim:
    """An output that is to be removed; `size` in bytes of the disk."""

    job_id: JobId
    owner: str
    size: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be removed.

    Attributes:
        stuck: clients, the first takes most, whose running jobs' outputs take so much that they were to give more before
            others do, and who have nothing to give; where nobody gives anything, the first alone.
    """

    victims: tuple[Victim, ...]
    stuck: tuple[str, ...]


class Ledger:
    """Sizes of outputs, in bytes of the disk, as they were measured last."""

    def __init__(self, *, counts_earlier: bool = True) -> None:
        """`counts_earlier`: `note_earlier` will be called."""
        self._running: dict[JobId, tuple[str, int]] = {}
        self._ended: dict[str, dict[JobId, int]] = {}
        """By client, in the order in which they ended."""
        self._unmeasured: dict[JobId, str] = {}
        self._of: Counter[str] = Counter()
        self._gone: set[JobId] | None = set() if counts_earlier else None
        """What was forgotten before those of earlier servers were known; None afterwards."""

    @property
    def total(self) -> int:
        """Of all outputs."""
        return self._of.total()

    def of(self, owner: str) -> int:
        """Of a client's outputs."""
        return self._of[owner]

    def runs_any(self, owner: str) -> bool:
        """Whether a client has running jobs."""
        return any(each == owner for each, _ in self._running.values())

    @property
    def unmeasured(self) -> tuple[JobId, ...]:
        """Jobs that have ended since they were measured."""
        return tuple(self._unmeasured)

    def note_running(self, job_id: JobId, owner: str) -> None:
        """A job runs."""
        self._running.setdefault(job_id, (owner, 0))

    def note_ended(self, job_id: JobId, owner: str) -> None:
        """A job has ended, the last one until now. One that is known to have, as an earlier server's, counts once."""
        _, size = self._running.pop(job_id, (owner, 0))
        ended = self._ended.setdefault(owner, {})
        if job_id in ended:
            self._of[owner] -= size
        else:
            ended[job_id] = size
            self._unmeasured[job_id] = owner

    def note_size(self, job_id: JobId, size: int) -> None:
        """What was measured; nothing of a job that was forgotten meanwhile."""
        if (owner := self._unmeasured.pop(job_id, None)) is not None:
            before = self._ended[owner].pop(job_id) if not size else self._ended[owner][job_id]
            if size:
                self._ended[owner][job_id] = size
        elif job_id in self._running:
            owner, before = self._running[job_id]
            self._running[job_id] = owner, size
        else:
            return
        self._of[owner] += size - before

    def note_earlier(self, found: Iterable[Victim]) -> None:
        """Outputs of jobs that ended, in this order, before all others that are known to have. To be called once."""
        gone, self._gone = self._gone or (), None
        earlier: dict[str, dict[JobId, int]] = {}
        for each in found:
            if each.size and each.job_id not in gone and each.job_id not in self._ended.get(each.owner, {}):
                earlier.setdefault(each.owner, {})[each.job_id] = each.size
                self._of[each.owner] += each.size
        for owner, sizes in earlier.items():
            self._ended[owner] = sizes | self._ended.get(owner, {})

    def forget(self, job_id: JobId) -> None:
        """Its output is gone, or not to be counted. Idempotent."""
        self._unmeasured.pop(job_id, None)
        if self._gone is not None:
            self._gone.add(job_id)
        if job_id in self._running:
            owner, size = self._running.pop(job_id)
            self._of[owner] -= size
        for owner, sizes in self._ended.items():
            self._of[owner] -= sizes.pop(job_id, 0)

    def keep_running(self, job_ids: Collection[JobId]) -> None:
        """No other jobs run: what others of them had is not to be counted."""
        for job_id in [job_id for job_id in self._running if job_id not in job_ids]:
            self.forget(job_id)

    def choose(self, excess: int, most: int) -> Choice:
        """Ended jobs' outputs that take so much together: at each step the oldest of the client whose outputs take most.

        Args:
            excess: bytes of the disk that are to be free then.
            most: how many outputs at most.
        """
        of = +Counter(self._of)
        oldest = {owner: iter(self._of_ended(owner)) for owner in of}
        running = {owner for owner, size in self._running.values() if size}
        victims: list[Victim] = []
        stuck: list[str] = []
        before_others = 0
        while excess > 0 and oldest and len(victims) < most:
            owner = max(oldest, key=lambda owner: of[owner])
            victim = next(oldest[owner], None)
            if victim is None:
                del oldest[owner]
                if owner in running:
                    stuck.append(owner)
                continue
            victims.append(victim)
            before_others = len(stuck)
            of[owner] -= victim.size
            excess -= victim.size
        return Choice(tuple(victims), tuple(stuck[: before_others if victims else 1]))

    def oldest_of(self, owner: str, size: int, most: int) -> list[Victim]:
        """The oldest of a client's ended jobs' outputs that take so much together, `most` of them at most."""
        victims: list[Victim] = []
        for victim in self._of_ended(owner)[:most]:
            if size <= 0:
                break
            victims.append(victim)
            size -= victim.size
        return victims

    def _of_ended(self, owner: str) -> list[Victim]:
        return [Victim(job_id, owner, size) for job_id, size in self._ended.get(owner, {}).items() if size]
