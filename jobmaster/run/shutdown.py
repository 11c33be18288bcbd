"""How far the server's end has come, and whether its jobs end with it or go on with the next server.

Where the whole server is cancelled, another one goes on with the jobs: nobody's Start is undone then, and supervisors
hand over. Who is cancelled learns which of both it is one round of the event loop later: `notice_cancellation` is a task
that is cancelled with everybody else, and not with a caller alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import trio


class Shutdown:
    """What every job's task asks when it is cancelled, and every Start before it begins."""

    def __init__(self, *, may_hand_over: Callable[[], bool]) -> None:
        """`may_hand_over` tells whether another server goes on with the jobs of one that is cancelled."""
        self._may_hand_over = may_hand_over
        self._is_handing_over = False
        self._is_cancelled = False
        self.is_draining = False
        """Whether all jobs end with the server."""

    @property
    def has_begun(self) -> bool:
        """Whether no more jobs are taken."""
        return self.is_draining or self._is_handing_over or self._is_cancelled

    def hands_over(self) -> bool:
        """Whether the whole server is being cancelled and another one goes on with its jobs."""
        return self._is_cancelled and self._may_hand_over() and not self.is_draining

    def begin_drain(self) -> None:
        """From now on no more jobs are taken, and all end."""
        self.is_draining = True

    def begin_hand_over(self) -> None:
        """From now on no more jobs are taken; Starts under way come to their end."""
        self._is_handing_over = True

    def hand_over(self) -> None:
        """Says that who is cancelled from now on hands over."""
        self._is_cancelled = True

    async def notice_cancellation(self) -> NoReturn:
        """Waits until the whole server is cancelled, and says so."""
        try:
            await trio.sleep_forever()
        finally:
            self._is_cancelled = True
