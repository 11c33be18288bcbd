"""The numbers that clients' jobs have as user and as group: a range of user ids that belongs to nobody else. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LOWEST: Final = 1_000
"""Below are the system's own users (Debian Policy, section 9.2.2; systemd, Users, Groups, UIDs and GIDs)."""
HIGHEST: Final = 2**31 - 1
"""Programs exist that keep a user id as a signed number."""
_NOBODY: Final = 65_534
_OF_16_BITS: Final = 65_535
"""What -1, "no change", was when user ids had 16 bits."""
_FORM: Final = re.compile(r"(\d{1,10})-(\d{1,10})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class UidRange:
    """User ids from `first` to `last`, and the group ids of the same numbers.

    Raises:
        ValueError: it is empty, or has a number that is no user's.
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if not LOWEST <= self.first <= self.last <= HIGHEST:
            raise ValueError(f"{self} is no range of user ids from {LOWEST} to {HIGHEST}, such as {_EXAMPLE}")
        for number in (_NOBODY, _OF_16_BITS):
            if number in self:
                raise ValueError(f"{self} has {number}, which can be no user's of its own: name a range without it")

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.first <= number <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def beginning_at(self, place: int) -> Iterator[int]:
        """Every number once, from the one at this place on and round; a place beyond the end is one further round."""
        return (self.first + (place + step) % len(self) for step in range(len(self)))


_EXAMPLE: Final = "2100000000-2100065535"

DEFAULT_UID_RANGE: Final = UidRange(first=2_100_000_000, last=2_100_065_535)
"""What nothing else that is known gives to anybody: systemd gives its containers up to 1,879,048,191 and reserves 2,147,352,576
and more for foreign images, dynamic users and nobody end at 65,535; /etc/subuid begins at 100,000 and useradd(8) ends at
600,100,000; directories that compute user ids end at 2,000,200,000 (sssd, FreeIPA)."""
SMALL_UID_RANGE: Final = UidRange(first=60_706, last=61_183)
"""For a user namespace that has ids of 16 bits alone, as containers do: what systemd's table has as unused between the users of
people and dynamic ones."""


def parse_uid_range(text: str) -> UidRange:
    """FIRST-LAST.

    Raises:
        ValueError: it is none.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no range of user ids, such as {_EXAMPLE}")
    return UidRange(first=int(match[1]), last=int(match[2]))
