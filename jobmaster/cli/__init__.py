"""The command line: `jobmaster …` and `python -m jobmaster …`.

Data goes to stdout, chatter to stderr. Exit status: 0 done, 1 refused or failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

from jobmaster.cli.program import main

__all__ = ["main"]
