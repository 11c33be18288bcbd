"""`python -m jobmaster.serve`: becomes the launcher, which starts the server (`jobmaster.server`) as its child.

The launcher is executed in place, so that the process that was started is the one that holds the jobs. Nothing but the
standard library is imported for that, and little of it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

_LAUNCHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launcher")  # noqa: PTH100, PTH118, PTH120  # pathlib would take longer to import than all else here


def main() -> NoReturn:
    """Executes the launcher, with what the server is to be started by: this interpreter, its options and arguments.

    Signals that end the server are blocked until the launcher can pass them on.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2))
    _find_package_elsewhere_than_here()
    server = [sys.executable, "-P", *_interpreter_options(sys.orig_argv), "-m", "jobmaster.server", *sys.argv[1:]]
    os.execv(  # noqa: S606  # no shell is wanted
        sys.executable, [sys.executable, "-I", "-S", _LAUNCHER, "--", *server]
    )


def _find_package_elsewhere_than_here() -> None:
    """Lets servers, which do not look for modules in the working folder (-P), find this package where that was only there.

    A server is started anew at any time, in the folder in which somebody started the first one: had a job written a module
    there, root would execute it.
    """
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # as above
    if not sys.flags.safe_path and folder == sys.path[0]:
        named = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{named}" if named else folder


def _interpreter_options(command_line: list[str]) -> list[str]:
    """What stands before `-m jobmaster.serve`, such as `-W error`."""
    for index, word in enumerate(command_line):
        if word == "-m":
            return command_line[1:index] if command_line[index + 1 : index + 2] == ["jobmaster.serve"] else []
    return []


if __name__ == "__main__":
    main()
