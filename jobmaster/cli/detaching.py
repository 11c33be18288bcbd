"""The keys that leave a terminal: how they are named, and how they are found among what is typed. Pure."""

from __future__ import annotations

from typing import Final

DEFAULT_KEYS: Final = "ctrl-p,ctrl-q"
NO_KEYS: Final = "none"
_CONTROL: Final = "ctrl-"
_MOST: Final = 16
"""Keys of a sequence."""


def parse_keys(text: str) -> bytes:
    """The bytes of a sequence of keys: `ctrl-p,ctrl-q`, `ctrl-]`, `~,.`, or `none`.

    Raises:
        ValueError: it is none; says what would be.
    """
    if text == NO_KEYS:
        return b""
    keys = [_key(name) for name in text.split(",")]
    if None in keys or len(keys) > _MOST:
        raise ValueError(f"{text!r} names no keys: say {DEFAULT_KEYS}, ctrl-], or {NO_KEYS}; {_MOST} keys at most")
    return bytes(key for key in keys if key is not None)


def _key(name: str) -> int | None:
    if len(name) == 1 and "!" <= name <= "~":
        return ord(name)
    letter = name.removeprefix(_CONTROL).upper()
    if name.startswith(_CONTROL) and len(letter) == 1 and "@" <= letter <= "_":
        return ord(letter) & 0x1F
    return None


class KeyFilter:
    """Finds the sequence in what is typed. What may be its beginning is held back, until the next key or `release`."""

    def __init__(self, keys: bytes) -> None:
        """Of these keys; none: it finds nothing."""
        self._keys = keys
        self._held = b""
        self.has_matched = False

    @property
    def holds(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """What of these bytes, and of those held back, is for the job; nothing behind the sequence is."""
        if not self._keys:
            return data
        passed = bytearray()
        for value in data:
            held = self._held + bytes([value])
            while not self._keys.startswith(held):
                passed.append(held[0])
                held = held[1:]
            if held == self._keys:
                self._held, self.has_matched = b"", True
                break
            self._held = held
        return bytes(passed)

    def release(self) -> bytes:
        """What was held back: no key has followed, so it was meant for the job."""
        held, self._held = self._held, b""
        return held
