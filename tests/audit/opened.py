"""Trails and audit folders of tests, open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from jobmaster.audit import audit
from jobmaster.audit.file import AuditFile, FileBounds
from jobmaster.audit.opening import AuditFolder
from jobmaster.audit.trail import Trail
from jobmaster.journal.ballast import Ballast


def folder_for(path: Path, bounds: FileBounds) -> AuditFolder:
    """A folder that is made where it is missing."""
    return AuditFolder(path=path, bounds=bounds, prepare=partial(path.mkdir, exist_ok=True))


@asynccontextmanager
async def open_trail(
    folder: Path, name: str, bounds: FileBounds, *, ballast: Ballast | None = None
) -> AsyncIterator[Trail]:
    """A trail for the block, in a folder that is there."""
    trail = Trail(ballast)
    trail.use(AuditFile.open(folder, name, bounds), ())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trail.keep_writing)
        await trail.is_open.wait()
        try:
            yield trail
        finally:
            trail.finish(trio.current_time() + audit.END_SECONDS)
            nursery.cancel_scope.cancel()  # which does not end the writer
