"""The server with bounds on connections of the caller's choice: `python -m tests.scale.server TOTAL [option ...]`.

All else is `python -m jobmaster.serve`, which has no option for these bounds.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import jobmaster.serve
from jobmaster.server.listener import DEFAULT_LIMITS, Listener


def main() -> None:
    """The program."""
    limits = replace(DEFAULT_LIMITS, total=int(sys.argv[1]))
    setattr(jobmaster.serve, "Listener", partial(Listener, limits=limits))  # noqa: B010  # a name that serve imports
    jobmaster.serve.main(sys.argv[2:])


if __name__ == "__main__":
    main()
