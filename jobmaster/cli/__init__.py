"""The command line: `jobmaster …` and `python -m jobmaster …`.

Data goes to stdout, chatter to stderr. Exit status: 0 done, 1 refused or failed, 2 usage, 130 interrupted.

Theory of operation
-------------------
*Start-up.* Most of the time of a short command is imports, so none is made before it is known what for: this module
imports what the interpreter has loaded already, `program` argparse, and only `verbs` Trio, protobuf and purerpc. The
garbage collector rests meanwhile: what imports make is there to stay. To take all that apart again at the end would take
a third as long as to make it, and so the process ends without.

*Ctrl-C* ends the process from the signal handler, at once and wherever it is. A KeyboardInterrupt is an exception that
anything on its way may catch, print or take for something else: an import, a destructor, a connection's task; and it
waits where a thread is stuck in a pipe that nobody reads. Nothing of ours needs an orderly end: output is written
without a buffer, and a server abandons the calls of a client that has gone.
"""

from __future__ import annotations

import gc
import os
import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: list[str] | None = None) -> None:
    """The program; `arguments` are by default the process's, which then ends at once; else it ends in SystemExit."""
    gc.disable()
    try:
        import signal

        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under nohup, or in the background of a script
            signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(INTERRUPTED))
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    from jobmaster.cli.program import run

    status = run(sys.argv[1:] if arguments is None else arguments)
    if arguments is not None:
        sys.exit(status)
    from jobmaster.ending import end

    end(status)
