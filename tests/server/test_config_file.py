"""The configuration file is read where it is its owner's alone, and what is in force is kept in one step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from jobmaster.errors import ConfigurationError
from jobmaster.server.config_file import KEPT_NAME, keep_text, kept_text, read_file
from jobmaster.server.schema import LARGEST_FILE

TEXT: Final = "verbose = true\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good one, in a folder of its own."""
    folder = tmp_path / "etc"
    folder.mkdir(0o755)
    path = folder / "config.toml"
    path.write_text(TEXT)
    path.chmod(0o644)
    return path


def test_a_good_file(file: Path) -> None:
    """It may be readable by everybody."""
    assert read_file(file) == TEXT


def test_no_file(tmp_path: Path) -> None:
    """There need be none, nor a folder for it."""
    assert read_file(tmp_path / "config.toml") is None
    assert read_file(tmp_path / "none" / "config.toml") is None


def test_symbolic_links(file: Path, tmp_path: Path) -> None:
    """Tools that manage configurations link to the file, and exchange the link."""
    version = tmp_path / "etc" / "current"
    version.symlink_to(file.parent)
    link = file.parent / "link.toml"
    link.symlink_to(version / file.name)
    assert read_file(link) == TEXT


def writable(path: Path) -> None:
    """Lets its group write it."""
    path.chmod(path.stat().st_mode | 0o020)


def writable_folder(path: Path) -> None:
    """Lets everybody write its folder."""
    path.parent.chmod(0o777)


def linked_from_a_writable_folder(path: Path) -> None:
    """Puts a link in its place, to a folder that others may write."""
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / path.name).write_text(TEXT)
    path.unlink()
    path.symlink_to(elsewhere / path.name)
    elsewhere.chmod(0o777)


def another_users(path: Path) -> None:
    """Gives it to somebody else."""
    if os.geteuid():
        pytest.skip("needs root")
    os.chown(path, 12345, -1)


def another_users_folder(path: Path) -> None:
    """Gives its folder to somebody else."""
    if os.geteuid():
        pytest.skip("needs root")
    os.chown(path.parent, 12345, -1)


def pipe(path: Path) -> None:
    """A FIFO, which nobody writes."""
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    """A folder."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (writable, "it can be written by others (mode 0664): chmod go-w it"),
        (writable_folder, "etc can be written by others (mode 0777): chmod go-w it"),
        (linked_from_a_writable_folder, "elsewhere can be written by others"),
        (another_users, "it belongs to another user (uid 12345)"),
        (another_users_folder, "etc belongs to another user (uid 12345)"),
        (pipe, "it is not a regular file"),
        (folder, "it is not a regular file"),
        (lambda path: path.write_text(""), "it is empty"),
        (lambda path: path.write_text(" \n\n"), "it is empty"),
        (lambda path: path.write_text("#" * (LARGEST_FILE + 1)), "it has more than 64 KiB"),
        (lambda path: path.write_bytes(b"#\n\n# \xff\n"), "it is not UTF-8 (at line 3)"),
    ],
)
def test_files_that_are_refused(file: Path, spoil: Callable[[Path], object], said: str) -> None:
    """What others may have written, or is not whole, says nothing, and why is told."""
    spoil(file)
    with pytest.raises(ConfigurationError) as refusal:
        read_file(file)
    assert said in str(refusal.value)


def test_what_is_kept(tmp_path: Path) -> None:
    """It is its owner's alone, takes the place of what was kept before, and leaves nothing beside it."""
    place = os.open(tmp_path, os.O_RDONLY)
    try:
        assert kept_text(place) is None
        keep_text(tmp_path, "first\n")
        keep_text(tmp_path, "second\n")
        assert kept_text(place) == "second\n"
    finally:
        os.close(place)
    assert (tmp_path / KEPT_NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEPT_NAME]


def test_a_disk_that_does_not_take_it(tmp_path: Path) -> None:
    """What was kept before stays whole."""

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    keep_text(tmp_path, "first\n")
    with pytest.raises(OSError, match="No space"):
        keep_text(tmp_path, "second\n", sync=fail)
    assert (tmp_path / KEPT_NAME).read_text() == "first\n"
    keep_text(tmp_path, "third\n")
    assert (tmp_path / KEPT_NAME).read_text() == "third\n"
