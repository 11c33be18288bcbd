"""What is left of jobs that have ended and could not be killed or removed: it is tried again."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from jobmaster.errors import HostError

if TYPE_CHECKING:
    from jobmaster.run.execution import Execution

logger = logging.getLogger(__name__)

LEFTOVER_SECONDS: Final = 5.0
"""Between two tries to remove what a job left that could not be killed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Leftover:
    owner: str
    execution: Execution
    is_end_settled: bool


class Leftovers:
    """Executions of ended jobs, each with its owner. They take places of running jobs, which bounds their number."""

    def __init__(self) -> None:
        self._executions: list[_Leftover] = []

    @property
    def executions(self) -> tuple[Execution, ...]:
        """Those that are left now."""
        return tuple(leftover.execution for leftover in self._executions)

    def of_clients(self) -> Counter[str]:
        """How many are left of each client's."""
        return Counter(leftover.owner for leftover in self._executions)

    def add(self, owner: str, execution: Execution, *, is_end_settled: bool) -> None:
        """Takes over an execution whose supervisor could not remove it.

        Args:
            owner: whose job it was.
            execution: what is left of it.
            is_end_settled: whether the journal has its end; else the launcher keeps what it knows, for the next server.
        """
        self._executions.append(_Leftover(owner, execution, is_end_settled))

    async def keep_removing(self) -> NoReturn:
        """Tries again and again to kill, remove and close each, until cancelled."""
        while True:
            await trio.sleep(LEFTOVER_SECONDS)
            for leftover in tuple(self._executions):
                if await _is_removed(leftover):
                    self._executions.remove(leftover)


async def _is_removed(leftover: _Leftover) -> bool:
    execution = leftover.execution
    try:
        execution.kill()
        if not execution.remove():
            return False
        if leftover.is_end_settled:
            await execution.close()
        else:
            execution.leave()
    except (HostError, OSError) as error:
        logger.warning("a job that has ended cannot be removed: %s", error)
        return False
    return True
