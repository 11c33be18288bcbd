"""What is left of jobs that have ended and could not be killed or removed: it is tried again."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from jobmaster.errors import HostError

if TYPE_CHECKING:
    from jobmaster.run.execution import Execution

logger = logging.getLogger(__name__)

LEFTOVER_SECONDS: Final = 5.0
"""Between two tries to remove what a job left that could not be killed."""


class Leftovers:
    """Executions of ended jobs, each with its owner. They take places of running jobs, which bounds their number."""

    def __init__(self) -> None:
        self._executions: list[tuple[str, Execution]] = []

    @property
    def executions(self) -> tuple[Execution, ...]:
        """Those that are left now."""
        return tuple(execution for _, execution in self._executions)

    def of_clients(self) -> Counter[str]:
        """How many are left of each client's."""
        return Counter(owner for owner, _ in self._executions)

    def add(self, owner: str, execution: Execution) -> None:
        """Takes over an execution whose supervisor could not remove it."""
        self._executions.append((owner, execution))

    async def keep_removing(self) -> NoReturn:
        """Tries again and again to kill, remove and close each, until cancelled."""
        while True:
            await trio.sleep(LEFTOVER_SECONDS)
            for leftover in tuple(self._executions):
                if await _is_removed(leftover[1]):
                    self._executions.remove(leftover)


async def _is_removed(execution: Execution) -> bool:
    try:
        execution.kill()
        if not execution.remove():
            return False
        await execution.close()
    except (HostError, OSError) as error:
        logger.warning("a job that has ended cannot be removed: %s", error)
        return False
    return True
