"""The files of one output: where they are, and their removal."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def index_path(output: Path) -> Path:
    """Where the index of an output is kept."""
    return output.with_suffix(".index")


def aside_path(output: Path) -> Path:
    """Where what was in its place, and no file, is put."""
    return output.with_suffix(".index.aside")


def unlink_output(path: Path) -> None:
    """Removes an output with its index and what was in the place of that, as far as they are there.

    The output first: where that is there, nobody takes it for one that never had an index.
    A folder that somebody has put in the place of one is left, where it has something in it. Blocks as long as the disk does.

    Raises:
        OSError: one of them cannot be removed.
    """
    _remove(path)
    _remove(index_path(path))
    remove_aside(path)


def remove_aside(output: Path) -> None:
    """Removes what was in the place of an output's index. Blocks, and raises, as `unlink_output`."""
    _remove(aside_path(output))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        if not path.is_dir():
            raise
        try:
            path.rmdir()
        except OSError as error:
            logger.warning("%s, a folder that somebody has put in a file's place, is left: %s", path, error.strerror)
