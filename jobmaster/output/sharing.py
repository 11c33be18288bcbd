"""What the readers and the writer of one output share on the event loop, and what all outputs share."""

from __future__ import annotations

from jobmaster.output.cap import Range


class KeptFile:
    """The file of one output, as long as anybody has a follower of it or its record in memory.

    Attributes:
        is_pruned: it is removed to make room: nothing of it is read from now on, but for what is pinned already.
        pins: ranges that followers are being sent.
    """

    def __init__(self, *, is_pruned: bool = False) -> None:
        self.is_pruned = is_pruned
        self.pins: list[Range] = []


class Room:
    """Whether outputs may grow; their logs ask before each move.

    Attributes:
        why_full: the bound that is reached, as a client may be told of it; None where there is room.
    """

    def __init__(self) -> None:
        self.why_full: str | None = None
