"""Times of a command line, which may be given as how long ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def utc_of(moment: datetime | timedelta) -> datetime:
    """The time that is meant, in UTC."""
    return (datetime.now(UTC) - moment if isinstance(moment, timedelta) else moment).astimezone(UTC)
