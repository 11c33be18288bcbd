"""The place of the jobs' own folders, under which nobody but the server makes or removes a name.

Each start removes from it what has a job's name and is of no job that lives. So a place is a server's own: it is made, or was
there and empty, when the server leaves a mark with the path of its output folder in it; without that mark nothing in it is ever
touched. What was there keeps its mode. Every folder on the way is one that no user of jobs could put another in the place of.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobmaster.errors import ConfigurationError
from jobmaster.server.judgements import fault_of_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobmaster.server.options import ServerOptions

_ENTERED_BY_ALL: Final = 0o711
_MARK: Final = ".jobmaster"
_OF_FILE_SYSTEMS: Final = "lost+found"
"""What an empty file system has."""
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def place_of(options: ServerOptions) -> Path:
    """The place that was named, else beside the output folder."""
    return options.work_folder or options.output_folder.with_name(f"{options.output_folder.name}-work")


def prepare_place(options: ServerOptions) -> tuple[Path | None, tuple[str, ...]]:
    """Makes and marks the place, or takes the one there is; None, and a warning, where the default one can't be used. Blocks.

    Raises:
        ConfigurationError: a place was named, and can't be used; nothing that was there is changed.
    """
    place = place_of(options)
    try:
        if (fault := fault_of_place(options)) is None:
            _make(place, options.output_folder)
            fault = fault_of_place(
                options
            )  # what was made on the way has this server's umask; and another may have marked it
    except OSError as error:
        fault = f"work folder {place}: {error.strerror}"
    if fault is None:
        return place, ()
    if options.work_folder is not None:
        raise ConfigurationError(f"--work-dir: {fault}")
    return None, (
        f"warning: jobs have no working and temporary folder of their own: {fault}; or name another with --work-dir",
    )


def check_named_place(options: ServerOptions) -> None:
    """Raises ConfigurationError where a place was named and can't be used; nothing is made. Blocks."""
    try:
        fault = None if options.work_folder is None else fault_of_place(options)
    except OSError as error:
        fault = f"work folder {options.work_folder}: {error.strerror}"
    if fault is not None:
        raise ConfigurationError(fault)


def fault_of_place(options: ServerOptions) -> str | None:
    """Why jobs can't have their folders there, with the remedy; None where they can. What is not there would be made.

    Raises:
        OSError: it can't be looked at.
    """
    place = place_of(options)
    return (
        _fault_of_name(place, (options.output_folder, options.audit))
        or (_fault_of_way(place) if os.geteuid() == 0 else None)
        or (_fault_of_folder(place, options.output_folder) if os.path.lexists(place) else None)
    )


def _fault_of_name(place: Path, kept: tuple[Path, ...]) -> str | None:
    real = _real(place)
    for folder in map(_real, kept):
        if real == folder or real in folder.parents or folder in real.parents:
            return f"work folder {place}: {folder} is kept there, or it is in that; name another"
    return None


def _fault_of_way(place: Path) -> str | None:
    """Of the folders above it, those that are there: users of jobs have to get through, and must not replace one."""
    for folder in dict.fromkeys((*place.parents, *_real(place).parents)):
        try:
            details = folder.stat()
        except FileNotFoundError:
            continue
        if not details.st_mode & stat.S_IXOTH:
            return f"work folder {place}: users of jobs can't get there, since {folder} keeps them out; chmod o+x it"
        if details.st_uid != 0:
            return f"work folder {place}: {folder} belongs to another user (uid {details.st_uid}), who could replace it"
        if details.st_mode & _OTHERS and not details.st_mode & stat.S_ISVTX:
            return f"work folder {place}: others can write {folder}, and replace it; chmod go-w that"
    return None


def _fault_of_folder(place: Path, output_folder: Path) -> str | None:
    details = place.lstat()
    if (fault := fault_of_folder("work", place, details, uid=os.geteuid())) is not None:
        return fault
    if os.geteuid() == 0 and not details.st_mode & stat.S_IXOTH:
        return f"work folder {place}: users of jobs can't enter it; chmod o+x it"
    try:
        owner = (place / _MARK).read_bytes()
    except FileNotFoundError:
        other = next(_others_in(place), None)
        if other is None:
            return None
        return f"work folder {place} is not empty: there is {other!r}; name a new or an empty one, which is the server's alone"
    if owner == os.fsencode(output_folder):
        return None
    return (
        f"work folder {place} is that of the server with the output folder {os.fsdecode(owner)!r}; name another, or remove "
        f"{place / _MARK} and all that is there, where there is no such server any more"
    )


def _others_in(place: Path) -> Iterator[str]:
    with os.scandir(place) as entries:
        yield from (each.name for each in entries if not each.name.startswith(_MARK) and each.name != _OF_FILE_SYSTEMS)


def _make(place: Path, output_folder: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
        place.chmod(_ENTERED_BY_ALL)  # whatever the umask is
    mark = place / _MARK
    if mark.exists():
        return
    new = place / f"{_MARK}.{os.getpid()}"
    try:
        with new.open("wb") as file:
            file.write(os.fsencode(output_folder))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another server was first
            mark.hardlink_to(new)
    finally:
        new.unlink(missing_ok=True)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
