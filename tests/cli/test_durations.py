"""Times of a command line."""

from __future__ import annotations

import pytest

from jobmaster.cli.durations import parse_duration, parse_warning


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("90", 90_000),
        ("0.25", 250),
        ("500ms", 500),
        ("1.5s", 1500),
        ("10m", 600_000),
        ("1.5h", 5_400_000),
        ("2d", 172_800_000),
    ],
)
def test_times(text: str, milliseconds: int) -> None:
    """A number with a unit; without one, seconds."""
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "s", "0", "0.0001s", "-1", "1w", "1 h", "1e3", "inf", "nan", "1" * 13])
def test_texts_that_are_no_times(text: str) -> None:
    """Anything else is refused with what would do."""
    with pytest.raises(ValueError, match="is no time: say"):
        parse_duration(text)


def test_warnings() -> None:
    """How long before, and by which signal; without one it is the server's choice."""
    assert parse_warning("30s") == (30_000, 0)
    assert parse_warning("1m=INT") == (60_000, 2)
    for wrong in ("30s=", "=INT", "30s=INT=2"):
        with pytest.raises(ValueError, match="is no"):
            parse_warning(wrong)
