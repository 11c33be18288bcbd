"""Python's cycle collector, at times of our choosing.

Left to itself it comes when so and so many objects more have been made than freed, and then looks at all that were made
since: with ten thousand connections, whose timers come and go, that was half a second, and a full collection two, in
which the event loop runs no other task. Connections and calls leave no cycles (`tests/test_leaks.py`), so there
is little to find: the young objects are looked at several times a second, when they are few, and all of them so seldom
that it takes a thousandth of the time. What was there when the server started is never looked at again.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final, NoReturn

import trio

YOUNG_SECONDS: Final = 0.25
"""Between looks at the young objects."""
FULL_SECONDS: Final = 60.0
"""Between full collections, at least."""
FULL_SHARE: Final = 1000
"""How many times longer than a full collection it is to the next one, at least."""

_YOUNG, _ALL = 0, 2
"""Generations, as `gc` numbers them."""


async def collect_cycles(
    *, collect: Callable[[int], object] = gc.collect, clock: Callable[[], float] = time.perf_counter
) -> NoReturn:
    """Collects until it is cancelled; meanwhile, nothing is collected automatically."""
    collect(_ALL)
    gc.freeze()
    gc.disable()
    try:
        due = trio.current_time() + FULL_SECONDS
        while True:
            await trio.sleep(YOUNG_SECONDS)
            if trio.current_time() < due:
                collect(_YOUNG)
                continue
            began = clock()
            collect(_ALL)
            due = trio.current_time() + max(FULL_SECONDS, FULL_SHARE * (clock() - began))
    finally:
        gc.enable()
        gc.unfreeze()
