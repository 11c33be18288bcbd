"""`python -m jobmaster.server`: the server itself, which the launcher starts; users start `python -m jobmaster.serve`."""

from __future__ import annotations

import os
import sys

from jobmaster.server.signals import receive_signals

LAUNCHER_VARIABLE = "JOBMASTER_LAUNCHER"


def run() -> None:
    """Takes over the launcher's socket, and serves."""
    received = receive_signals()
    from jobmaster.server.program import main  # signals are received before the long imports

    socket = os.environ.pop(LAUNCHER_VARIABLE, "")
    if not socket.isdecimal():
        sys.exit("jobmaster: start the server with: python -m jobmaster.serve")
    os.set_inheritable(int(socket), False)
    main(int(socket), received)


if __name__ == "__main__":
    run()
