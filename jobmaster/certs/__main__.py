"""``python -m jobmaster.certs``: the program, with an end to Ctrl-C from its first import on."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def run() -> None:
    """Ends in SystemExit. While modules are imported, Ctrl-C ends the process at once; later, what is half-made goes."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(INTERRUPTED))
    from jobmaster.certs.program import main

    signal.signal(signal.SIGINT, on_interrupt)
    sys.exit(main())


if __name__ == "__main__":
    run()
