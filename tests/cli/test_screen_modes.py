"""What is set back on a terminal that a job is left in the middle of."""

from __future__ import annotations

import pytest

from jobmaster.cli.screen_modes import ScreenModes


def back(*pieces: bytes) -> bytes:
    """What sets back what these have set."""
    modes = ScreenModes()
    for piece in pieces:
        modes.feed(piece)
    return modes.back()


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"plain \x1b[31mtext\x1b[0m\r\n", b""),
        (b"\x1b[?1049h\x1b[?25l", b"\x1b[m\x1b[?25h\x1b[?1049l"),
        (b"\x1b[?1049h\x1b[?1;2004h\x1b[?1049l", b"\x1b[m\x1b[?2004l\x1b[?1l"),
        (b"\x1b[?25l\x1b[?25h\x1b[?2004l", b""),
        (b"\x1b[?1002h\x1b[?1006h", b"\x1b[m\x1b[?1006l\x1b[?1002l"),
        (b"\x1b[?31337h\x1b[?12h\x1b[?;h\x1b[?h", b""),
    ],
)
def test_what_is_set_back(output: bytes, expected: bytes) -> None:
    """The modes that are not as a shell expects them, and no others, the last one first."""
    assert back(output) == expected


@pytest.mark.parametrize("place", range(9))
def test_pieces(place: int) -> None:
    """A sequence that comes in two pieces is one."""
    output = b"\x1b[?1049h"
    assert back(output[:place], output[place:]) == b"\x1b[m\x1b[?1049l"
    assert back(*(output[at : at + 1] for at in range(len(output)))) == b"\x1b[m\x1b[?1049l"


def test_no_memory_of_what_is_no_sequence() -> None:
    """A beginning that never ends is forgotten."""
    modes = ScreenModes()
    for _ in range(1000):
        modes.feed(b"\x1b[?1;1;1;1;1;1;1;1;1;1;1;1;1")
    assert modes.back() == b""
    modes.feed(b"\x1b[?25l")
    assert modes.back() == b"\x1b[m\x1b[?25h"
