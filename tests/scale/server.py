"""The server with bounds on connections of the caller's choice: `python -m tests.scale.server TOTAL [option ...]`.

All else is the server program, which has no option for these bounds; it starts a launcher of its own.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import trio

from jobmaster.server import program
from jobmaster.server.listener import DEFAULT_LIMITS
from jobmaster.server.options import parse


def main() -> None:
    """The program."""
    total = int(sys.argv[1])
    limits = replace(DEFAULT_LIMITS, total=total, per_client=total)
    setattr(program, "DEFAULT_LIMITS", SimpleNamespace(total=total, within=lambda _: limits))  # noqa: B010  # its own are lower
    trio.run(program.run, parse(sys.argv[2:]))


if __name__ == "__main__":
    main()
