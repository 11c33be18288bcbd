"""Reading what a follower of an output log is handed."""

from __future__ import annotations

from jobmaster.output.followed_file import Stretch


async def bytes_of(stretch: Stretch) -> bytes:
    """All of a stretch, read as a sender does: at once where that goes."""
    buffer = bytearray(stretch.length)
    if stretch.read_at_once([memoryview(buffer)], 0):
        return bytes(buffer)
    return await stretch.read(0, stretch.length)
