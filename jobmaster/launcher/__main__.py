"""`python -I -S …/jobmaster/launcher`: without site-packages but those that the package itself is in, looked in last."""

from __future__ import annotations

import os
import sys

folder = sys.path.pop(0)  # of this file: its modules are the package's, not top-level ones
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(folder))))  # noqa: PTH100, PTH120  # pathlib costs 5 ms

from jobmaster.launcher.program import main  # noqa: E402  # found from here on

sys.exit(main(sys.argv[1:]))
