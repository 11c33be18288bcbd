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
    options = _find_package_elsewhere_than_here(_interpreter_options(sys.orig_argv))
    server = [sys.executable, "-P", *options, "-m", "jobmaster.server", *sys.argv[1:]]
    os.execv(  # noqa: S606  # no shell is wanted
        sys.executable, [sys.executable, "-I", "-S", _LAUNCHER, "--", *server]
    )


def _find_package_elsewhere_than_here(options: list[str]) -> list[str]:
    """Lets servers, which do not look for modules in the working folder (-P), find this package where that was only there.

    A server is started anew at any time, in the folder in which somebody started the first one: had a job written a module
    there, root would execute it. An interpreter that is to ignore its environment (-E) would not look at what names the
    package there; so it gets one in which nothing else is for it to ignore.

    Returns:
        The options without what keeps the package from being found.
    """
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # as above
    if sys.flags.safe_path or folder != sys.path[0]:
        return options
    if sys.flags.ignore_environment:
        for name in [name for name in os.environ if name.startswith("PYTHON")]:
            del os.environ[name]
        options = [word for word in options if word != "-E"]
    named = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{named}" if named else folder
    return options


def _interpreter_options(command_line: list[str]) -> list[str]:
    """What stands before `-m jobmaster.serve`, such as `-W error`, each option in a word of its own but for its argument."""
    options: list[str] = []
    words = iter(command_line[1:])
    for word in words:
        if not word.startswith("-"):
            return []
        if word.startswith("--"):  # --check-hash-based-pycs MODE
            options += [word, next(words, "")]
            continue
        for place, letter in enumerate(word[1:], 2):
            rest = word[place:]
            if letter == "m":
                return options if (rest or next(words, "")) == "jobmaster.serve" else []
            if letter in "WX":
                options += [f"-{letter}", rest or next(words, "")]
                break
            if letter == "c":
                return []
            options.append(f"-{letter}")
    return []


if __name__ == "__main__":
    main()
