"""How many outputs may be followed at a time: each follower has its file open, and the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from jobmaster.errors import ServerBusy

MOST_FOLLOWERS: Final = 2_000
"""As many as there may be calls."""
_SHARES: Final = 4
"""A client may have one of so many shares, so that none takes another's."""


class Followers:
    """Those of all clients together."""

    def __init__(self, most: int = MOST_FOLLOWERS) -> None:
        self._most = most
        self._of: Counter[str] = Counter()

    @contextmanager
    def counted(self, client: str) -> Iterator[None]:
        """Counts one of a client's for the block.

        Raises:
            ServerBusy: there are as many as there may be.
        """
        if self._of.total() >= self._most:
            raise ServerBusy(
                f"{self._most} outputs are followed, as many as the server's host has open files for; "
                "try again when one has ended"
            )
        own = self._of[client]
        if own >= max(1, self._most // _SHARES):
            raise ServerBusy(
                f"{client} follows {own} outputs, as many as one client may by the server's limit of open files; "
                "try again when one has ended"
            )
        self._of[client] += 1
        try:
            yield
        finally:
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]
