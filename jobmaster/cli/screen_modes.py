"""What a job has set of a terminal and would set back at its end, which who detaches does not wait for. Pure.

The modes are DEC's and xterm's private ones (`CSI ? … h` sets some and `CSI ? … l` resets them).
"""

from __future__ import annotations

import re
from typing import Final

_SEQUENCE: Final = re.compile(rb"\x1b\[\?([0-9;]{1,60})([hl])")
_BEGINNING: Final = re.compile(rb"\x1b(\[(\?[0-9;]{0,60})?)?\Z")
"""The beginning of one, at the end of a piece."""
_USUAL: Final = {
    **dict.fromkeys((1, 9, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004), False),
    **dict.fromkeys((7, 25), True),
}
"""Cursor keys, the mouse in all its kinds, focus, the alternate screen, pasting; wrapped lines and a cursor that is seen."""


class ScreenModes:
    """The modes that are not as usual."""

    def __init__(self) -> None:
        self._changed: dict[int, bool] = {}
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """The next bytes for the terminal."""
        data = self._rest + data
        for match in _SEQUENCE.finditer(data):
            for number in (int(word) for word in match[1].split(b";") if word):
                self._set(number, is_on=match[2] == b"h")
        beginning = _BEGINNING.search(data)
        self._rest = b"" if beginning is None else beginning[0]

    def _set(self, number: int, *, is_on: bool) -> None:
        if _USUAL.get(number, is_on) == is_on:
            self._changed.pop(number, None)
        else:
            self._changed[number] = is_on

    def back(self) -> bytes:
        """What sets them back, the first one last, and the letters' colours with them; nothing where none is changed."""
        back = [b"\x1b[?%d%c" % (number, b"l" if is_on else b"h") for number, is_on in reversed(self._changed.items())]
        return b"\x1b[m" + b"".join(back) if back else b""
