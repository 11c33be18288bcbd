"""Calls of a blocking function that are made for many callers at once, as a database commits what has gathered in one write.

A caller joins the batch that gathers. One batch at a time is under way, in one thread; when it ends, all that joined the other
one meanwhile are the next. So a result is never of a call that began before its caller asked, and a burst of callers costs two
calls. The thread is no caller's: whoever leaves is not waited for, and takes nothing from those who stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from copy import copy
from functools import partial
from typing import Final, Generic, TypeVar

import outcome
import trio

from jobmaster.threads import NoThread, thread_needed

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Batch(Generic[Item, Result]):
    def __init__(self) -> None:
        self.items: Final[dict[Item, None]] = {}  # in order
        self.callers = 0
        self.result: outcome.Outcome[Result] | None = None
        self.ended: Final = trio.Event()


class Batches(Generic[Item, Result]):
    """The batches of one function. It has one thread, which a function that hangs keeps: callers need a deadline."""

    def __init__(self, function: Callable[[Collection[Item]], Result]) -> None:
        """Has a function called with the items of a batch."""
        self._function = function
        self._under_way: _Batch[Item, Result] | None = None
        self._gathering: _Batch[Item, Result] = _Batch()

    @property
    def items(self) -> Collection[Item]:
        """Those whose call has not ended, or not begun."""
        under_way = () if self._under_way is None else self._under_way.items
        return (*under_way, *self._gathering.items)

    async def call(self, *items: Item) -> Result:
        """The result of the next batch, with these items in it before anything else runs; they stay there if the caller leaves.

        Raises:
            NoThread: there is none; the function was not called.
            Exception: what the function raised; each caller has one of its own.
        """
        batch = self._gathering
        batch.items.update(dict.fromkeys(items))
        batch.callers += 1
        try:
            if self._under_way is None:
                self._begin()
            await batch.ended.wait()
        finally:
            batch.callers -= 1
        if isinstance(batch.result, outcome.Error):
            raise copy(batch.result.error) from batch.result.error
        assert isinstance(batch.result, outcome.Value)  # noqa: S101  # for the type checker: it has ended
        value: Result = batch.result.value
        return value

    def _begin(self) -> None:
        batch, self._gathering = self._gathering, _Batch()
        self._under_way = batch
        loop = trio.lowlevel.current_trio_token()

        def deliver(result: outcome.Outcome[Result]) -> None:
            with suppress(trio.RunFinishedError):
                loop.run_sync_soon(self._end, batch, result)

        try:
            with thread_needed():
                trio.lowlevel.start_thread_soon(partial(self._function, tuple(batch.items)), deliver)
        except NoThread as error:
            self._end(batch, outcome.Error(error))

    def _end(self, batch: _Batch[Item, Result], result: outcome.Outcome[Result]) -> None:
        batch.result = result
        batch.ended.set()
        self._under_way = None
        if self._gathering.callers or self._gathering.items:
            self._begin()
