"""What happened to every job, durable: events in one SQLite database, and the jobs' records as their replay gives them."""

from __future__ import annotations
