"""Writing files whose content is a secret: modes, links, races and half-written folders."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from jobmaster.certs.writing import NewFile, write_all
from jobmaster.errors import ConfigurationError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CERTIFICATE = NewFile(name="a_cert.pem", content=b"certificate", secret=False)
KEY = NewFile(name="a_key.pem", content=b"key", secret=True)
LONG_KEY = NewFile(name="b_key.pem", content=b"x" * 1000, secret=True)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Run with the umask `mask`."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse (EFBIG) to write more than `size` bytes into a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def mode(path: Path) -> int:
    """Return the permission bits of `path`."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_modes(tmp_path: Path, mask: int) -> None:
    """Whatever the umask, the folder and keys are their owner's alone and certificates everyone's to read."""
    with umask(mask):
        paths = write_all(tmp_path / "certs", [CERTIFICATE, KEY], force=False)
    assert [mode(path) for path in (tmp_path / "certs", *paths)] == [0o700, 0o644, 0o600]
    assert [path.read_bytes() for path in paths] == [b"certificate", b"key"]


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    """After writing, with force and without, the folder holds the files asked for and no other."""
    for force in (False, True):
        write_all(tmp_path / "certs", [CERTIFICATE, KEY], force=force)
        assert sorted(os.listdir(tmp_path / "certs")) == ["a_cert.pem", "a_key.pem"]


def test_existing_file_is_kept(tmp_path: Path) -> None:
    """When one file exists nothing is written, and the error names the file and --force."""
    tmp_path.joinpath("a_key.pem").write_bytes(b"precious")
    with pytest.raises(ConfigurationError, match=r"a_key\.pem exists already: give --force"):
        write_all(tmp_path, [CERTIFICATE, KEY], force=False)
    assert os.listdir(tmp_path) == ["a_key.pem"]
    assert tmp_path.joinpath("a_key.pem").read_bytes() == b"precious"


def test_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    """A symbolic link to nowhere in a file's place is not followed and not replaced."""
    tmp_path.joinpath("a_key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="exists already"):
        write_all(tmp_path, [KEY], force=False)
    assert not (tmp_path / "elsewhere").exists()


def test_force_replaces_the_link_and_not_its_target(tmp_path: Path) -> None:
    """With force a symbolic link is replaced; what it led to stays as it was."""
    (tmp_path / "target").write_bytes(b"of others")
    certs = tmp_path / "certs"
    certs.mkdir(mode=0o700)
    (certs / "a_key.pem").symlink_to(tmp_path / "target")
    write_all(certs, [KEY], force=True)
    assert (tmp_path / "target").read_bytes() == b"of others"
    assert not (certs / "a_key.pem").is_symlink()
    assert (certs / "a_key.pem").read_bytes() == b"key"


def test_force_does_not_keep_an_open_mode(tmp_path: Path) -> None:
    """With force a key that was open to others becomes its owner's alone."""
    (tmp_path / "a_key.pem").write_bytes(b"old")
    (tmp_path / "a_key.pem").chmod(0o666)
    write_all(tmp_path, [KEY], force=True)
    assert mode(tmp_path / "a_key.pem") == 0o600


def test_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    """A folder in a file's place is refused before anything is replaced, with force too."""
    (tmp_path / "a_cert.pem").write_bytes(b"old")
    (tmp_path / "a_key.pem").mkdir()
    with pytest.raises(ConfigurationError, match=r"a_key\.pem is a folder"):
        write_all(tmp_path, [CERTIFICATE, KEY], force=True)
    assert (tmp_path / "a_cert.pem").read_bytes() == b"old"


@pytest.mark.parametrize("force", [False, True])
def test_all_or_none_when_writing_fails(tmp_path: Path, *, force: bool) -> None:
    """When the host does not take one file's content, no file and no temporary file is left."""
    certs = tmp_path / "certs"
    with largest_file(100), pytest.raises(HostError, match="cannot be written"):
        write_all(certs, [CERTIFICATE, LONG_KEY], force=force)
    assert os.listdir(certs) == []


def test_all_or_none_when_naming_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a file cannot be given its name, those named before are taken back."""
    link = os.link

    def fail_for_keys(source: str, name: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        if name == "a_key.pem":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        link(source, name, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "link", fail_for_keys)
    with pytest.raises(HostError, match="cannot be written"):
        write_all(tmp_path, [CERTIFICATE, KEY], force=False)
    assert os.listdir(tmp_path) == []


def test_open_folder_is_made_private(tmp_path: Path) -> None:
    """A folder that others may enter is made private if it holds nothing but what belongs there."""
    certs = tmp_path / "certs"
    certs.mkdir()
    certs.chmod(0o755)
    for name in ("README.md", ".gitignore", "b_cert.pem", ".b_key.pem.0123456789abcdef.new"):
        (certs / name).touch()
    write_all(certs, [KEY], force=False)
    assert mode(certs) == 0o700


def test_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    """A folder that others use too is refused instead of being closed to them."""
    (tmp_path / "passwd").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigurationError, match="'passwd'"):
        write_all(tmp_path, [KEY], force=True)
    assert mode(tmp_path) == 0o755
    assert os.listdir(tmp_path) == ["passwd"]


def test_folder_of_somebody_else(tmp_path: Path) -> None:
    """Root writes no keys into another user's folder, and leaves its mode alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    certs = tmp_path / "certs"
    certs.mkdir(mode=0o755)
    os.chown(certs, 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        write_all(certs, [KEY], force=True)
    assert (mode(certs), os.listdir(certs)) == (0o755, [])


@pytest.mark.parametrize("target", ["real", "nowhere"])
def test_folder_that_is_a_link(tmp_path: Path, target: str) -> None:
    """A folder that is a symbolic link is refused, wherever it leads."""
    (tmp_path / "real").mkdir()
    (tmp_path / "certs").symlink_to(tmp_path / target)
    with pytest.raises(ConfigurationError, match="is a symbolic link"):
        write_all(tmp_path / "certs", [KEY], force=False)
    assert os.listdir(tmp_path / "real") == []


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    """A file in the place of the folder is refused."""
    (tmp_path / "certs").touch()
    with pytest.raises(ConfigurationError, match="cannot be used as the certificate folder"):
        write_all(tmp_path / "certs", [KEY], force=False)


def test_two_writers(tmp_path: Path) -> None:
    """While another process writes the folder, it is refused."""
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="being written by another process"):
            write_all(tmp_path, [KEY], force=False)
    finally:
        os.close(other)


def test_repr_hides_the_key() -> None:
    """A file to be written does not show its content, which may be a private key."""
    assert "TOP SECRET" not in repr(NewFile(name="a_key.pem", content=b"TOP SECRET", secret=True))


@pytest.mark.parametrize("name", ["", "../a_key.pem", "a_key.pem/../b", "A_key.pem", "shadow"])
def test_names_of_files(name: str) -> None:
    """Only names of a certificate folder's files can be written."""
    with pytest.raises(ConfigurationError, match="no name of a file"):
        NewFile(name=name, content=b"", secret=False)


def test_descriptors_are_closed(tmp_path: Path) -> None:
    """Writing, done or refused, leaves no descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    write_all(tmp_path, [KEY], force=False)
    with pytest.raises(ConfigurationError):
        write_all(tmp_path, [KEY], force=False)
    assert len(os.listdir("/proc/self/fd")) == before
