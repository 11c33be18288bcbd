"""The end of a program whose work is done."""

from __future__ import annotations

import os
import sys
from typing import Final, NoReturn

_PROFILER: Final = 2  # sys.monitoring.PROFILER_ID, with which cProfile watches from Python 3.12 on


def end(status: int) -> NoReturn:
    """Ends the process at once: to take the interpreter apart takes a third as long as its start, and brings nothing.

    What is said has to be written, and what is open to be closed by now. Who profiles the program writes down what was seen
    when the interpreter ends, and so it ends in SystemExit then.
    """
    monitoring = getattr(sys, "monitoring", None)
    if sys.getprofile() is not None or (monitoring is not None and monitoring.get_tool(_PROFILER) is not None):
        sys.exit(status)
    os._exit(status)
