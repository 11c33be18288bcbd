"""The server with bounds on connections of the caller's choice: `python -m tests.scale.server TOTAL [option ...]`.

All else is the server program, which has no option for these bounds; it starts a launcher of its own.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import trio

from jobmaster.server import program
from jobmaster.server.listener import DEFAULT_LIMITS
from jobmaster.server.options import parse


def main() -> None:
    """The program."""
    limits = replace(DEFAULT_LIMITS, total=int(sys.argv[1]))
    setattr(program, "ConnectionLimits", lambda **_: limits)  # noqa: B010  # what the program would compute
    trio.run(program.run, parse(sys.argv[2:]))


if __name__ == "__main__":
    main()
