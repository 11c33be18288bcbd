"""`python -m jobmaster.server`: the server itself, which the launcher starts; users start `python -m jobmaster.serve`.

Without a launcher that has started it, it starts one of its own, which serves to debug and to profile it.
"""

from __future__ import annotations

import gc
from typing import NoReturn

from jobmaster.server.signals import receive_signals


def run() -> NoReturn:
    """Receives signals, then imports the rest, and serves."""
    received = receive_signals()
    gc.disable()  # what imports make is there to stay; `collect_cycles` collects from when there is an event loop
    from jobmaster.server.program import main  # the long imports come after the first line

    main(received)


if __name__ == "__main__":
    run()
