"""What one job is, without a host and without an event loop: its specification, states, cause of death and record."""

from __future__ import annotations
