"""The output of one job: `log` keeps it and lets followers read it, `pump` moves it from the job's pipe."""

from __future__ import annotations
