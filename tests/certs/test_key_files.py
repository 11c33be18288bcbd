"""Reading files whose content is a secret: modes, links, races and folders of others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from jobmaster.certs.key_files import LARGEST_FILE, opened, path_of, read, require_sound_folder
from jobmaster.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def test_read_by_the_descriptor(tmp_path: Path) -> None:
    """What was judged is what is read, though another file has taken the name since."""
    file = tmp_path / "a_key.pem"
    file.write_bytes(b"judged")
    file.chmod(0o600)
    with opened(file, secret=True) as descriptor:
        (tmp_path / "other").write_bytes(b"swapped in")
        (tmp_path / "other").rename(file)
        with open(path_of(descriptor), "rb") as again:
            assert again.read() == b"judged"


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_open_key(tmp_path: Path, bits: int) -> None:
    """A key with any access for group or world is refused, with the command that puts it right."""
    file = tmp_path / "a_key.pem"
    file.touch()
    file.chmod(bits)
    with pytest.raises(ConfigurationError, match=rf"mode 0{bits:o}\): chmod 600 {file}"):
        read(file, secret=True)


def test_certificate_everyone_may_write(tmp_path: Path) -> None:
    """A certificate that everyone may write is refused; one that everyone may read is not."""
    file = tmp_path / "a_cert.pem"
    file.write_bytes(b"x")
    file.chmod(0o644)
    assert read(file) == b"x"
    file.chmod(0o646)
    with pytest.raises(ConfigurationError, match="written by everyone"):
        read(file)


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is named, with the command that makes it."""
    with pytest.raises(ConfigurationError, match=r"a_key\.pem is missing: `python -m jobmaster\.certs init`"):
        read(tmp_path / "a_key.pem")


def test_things_that_are_no_file(tmp_path: Path) -> None:
    """A link, a FIFO, a folder and a file too large are each refused, and the FIFO keeps nobody waiting."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", LARGEST_FILE + 1)
    reasons = {"link": "symbolic link", "fifo": "not a regular", "folder": "not a regular", "large": "more than"}
    for name, reason in reasons.items():
        with pytest.raises(ConfigurationError, match=reason):
            read(tmp_path / name)


@pytest.mark.parametrize(("kind", "complaint"), [("missing", "missing"), ("file", "Not a directory")])
def test_things_that_are_no_folder(tmp_path: Path, kind: str, complaint: str) -> None:
    """A folder that is not there, or is none, is named, and so is a file that is looked for in it."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=rf"{tmp_path / kind} .*{complaint}"):
        require_sound_folder(tmp_path / kind)
    with pytest.raises(ConfigurationError, match=rf"{tmp_path / kind}/a_key\.pem .*{complaint}"):
        read(tmp_path / kind / "a_key.pem")


def test_folder_that_others_may_write(tmp_path: Path) -> None:
    """A file in a folder that others may write is refused for the folder, whatever the file is."""
    folder = tmp_path / "certs"
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    os.mkfifo(folder / "a_key.pem")
    with pytest.raises(ConfigurationError, match="can be written by others"):
        read(folder / "a_key.pem")


def test_descriptors_are_closed(tmp_path: Path) -> None:
    """Reading, done or refused for the file or for its folder, leaves no descriptor open."""
    file = tmp_path / "a_key.pem"
    file.touch(mode=0o600)
    before = len(os.listdir("/proc/self/fd"))
    read(file, secret=True)
    file.chmod(0o644)
    with pytest.raises(ConfigurationError):
        read(file, secret=True)
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError):
        read(file)
    assert len(os.listdir("/proc/self/fd")) == before
