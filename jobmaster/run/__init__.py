"""Running jobs: the registry of all of them, and the supervisor, execution and output of each."""

from __future__ import annotations
