"""The output of one job that has ended."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

from jobmaster.output.files import index_path
from jobmaster.output.followed_file import READERS, Stretch, unreadable_named
from jobmaster.output.following import StoredFollower, follow
from jobmaster.output.index import HEADER_SIZE, Header, decode_header
from jobmaster.output.index_reader import with_index
from jobmaster.output.reading import GapPiece, Piece, Position, Selection, read
from jobmaster.output.sharing import KeptFile
from jobmaster.threads import run_in_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutput:
    """The output of a job that has ended: a file, and how many of the job's bytes are in it and are not."""

    path: Path
    kept: int
    lost: int
    dropped: int = 0
    sealed: bool = True
    file: KeptFile = field(default_factory=KeptFile, compare=False)

    @property
    def end(self) -> int:
        """The offset behind all bytes, kept or not."""
        return self.kept + self.lost + self.dropped

    async def wait_growth(self) -> None:
        """It does not grow."""
        raise AssertionError("nobody waits for the growth of a sealed log")

    async def presumes_loss(self) -> bool:
        """As that of `OutputLog`; an index that is unusable now, too, has taken the places along.

        Not one that was removed with its output: who had that open had the index, too.

        Raises:
            OutputUnreadable: the disk fails.
        """
        if not self.lost or self.file.is_pruned:
            return False
        path = index_path(self.path)
        with unreadable_named(path):
            return await run_in_thread(READERS, self._presumes_loss, path, abandon=True)

    def _presumes_loss(self, index: Path) -> bool:
        header = with_index(index, _header_of)
        return self.path.exists() if header is None else header.presumes_loss

    def follow(self, offset: int = 0) -> AsyncGenerator[Stretch, None]:
        """As that of `OutputLog`; raises OutputCut behind the last stretch where the file has less than it should have.

        A record is on the disk when the job has ended, its output some time later: a power cut can take what was between.
        """
        return follow(StoredFollower(self), offset)

    def read(self, selection: Selection) -> AsyncGenerator[Piece | GapPiece | Position, None]:
        """As that of `OutputLog`; what a power cut has taken is a gap."""
        return read(StoredFollower(self), selection)


def _header_of(fd: int) -> Header | None:
    return decode_header(os.pread(fd, HEADER_SIZE, 0))
