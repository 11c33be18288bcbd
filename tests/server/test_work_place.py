"""The place of the jobs' own folders: which is taken, and that nothing that was there is touched."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmaster.errors import ConfigurationError
from jobmaster.job.identifier import new_job_id
from jobmaster.server.checking import unusable
from jobmaster.server.options import ServerOptions
from jobmaster.server.work_place import check_named_place, prepare_place

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the users of jobs are others only where the server is root")


def mode(path: Path) -> int:
    """The permission bits of what is at a path itself."""
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can get to."""
    with tempfile.TemporaryDirectory(prefix="jobmaster-open-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.parametrize("given", [None, "work", "made/on/the/way"])
def test_the_place_of_jobs_folders(open_folder: Path, given: str | None) -> None:
    """It is made where every user can enter and only the server can write or look, beside the output unless it is named."""
    named = None if given is None else open_folder / given
    before = os.umask(0o022)
    try:
        folder, why_none = prepare_place(ServerOptions(output_folder=open_folder / "output", work_folder=named))
    finally:
        os.umask(before)
    assert (folder, why_none) == (named or open_folder / "output-work", ())
    assert folder is not None
    assert mode(folder) == 0o711


@as_root
@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("kind", ["closed", "link", "file", "made closed"])
def test_no_place_for_jobs_folders(open_folder: Path, kind: str, is_named: bool) -> None:
    """A place that others cannot enter, or that is not ours, is an error where it was named, and else no place, which is told."""
    parent = open_folder / "parent"
    if kind != "made closed":
        parent.mkdir()
    if kind == "closed":
        parent.chmod(0o700)
    if kind == "link":
        (parent / "output-work").symlink_to(open_folder)
    if kind == "file":
        (parent / "output-work").touch()
    asked = ServerOptions(output_folder=parent / "output", work_folder=parent / "output-work" if is_named else None)
    before = os.umask(0o077 if kind == "made closed" else 0o022)
    try:
        if is_named:
            with pytest.raises(ConfigurationError, match=r"--work-dir: work folder .*/parent/output-work"):
                prepare_place(asked)
        else:
            folder, why_none = prepare_place(asked)
            assert folder is None
            assert [line.startswith("warning: jobs have no working and temporary folder") for line in why_none] == [
                True
            ]
    finally:
        os.umask(before)


def test_one_server_for_a_place(open_folder: Path) -> None:
    """Another server, which would remove the folders of jobs that it does not know, is refused it; the same one has it again."""
    work = open_folder / "work"
    for name in ("output", "output"):
        prepare_place(ServerOptions(output_folder=open_folder / name, work_folder=work))
    with pytest.raises(
        ConfigurationError, match=r"that of the server with the output folder '.*/output'; .*\.jobmaster"
    ):
        prepare_place(ServerOptions(output_folder=open_folder / "other", work_folder=work))


def test_a_folder_with_other_things(open_folder: Path) -> None:
    """A folder that was named by mistake is refused, and stays as it is, mode and all, also where a name in it is a job's."""
    work = open_folder / "work"
    (work / new_job_id()).mkdir(parents=True)
    work.chmod(0o751)
    with pytest.raises(ConfigurationError, match=r"is not empty: there is .*; name a new or an empty one"):
        prepare_place(ServerOptions(output_folder=open_folder / "output", work_folder=work))
    assert mode(work) == 0o751
    assert len(list(work.iterdir())) == 1


def test_an_empty_folder(open_folder: Path) -> None:
    """One that is there and empty, as a file system of its own is, is taken with the mode it has."""
    work = open_folder / "work"
    (work / "lost+found").mkdir(parents=True)
    work.chmod(0o755)
    assert prepare_place(ServerOptions(output_folder=open_folder / "output", work_folder=work)) == (work, ())
    assert mode(work) == 0o755
    assert sorted(path.name for path in work.iterdir()) == [".jobmaster", "lost+found"]


def test_a_mark_that_was_begun(open_folder: Path) -> None:
    """A server that was killed before it had marked the place is followed by one that does."""
    work = open_folder / "work"
    work.mkdir(mode=0o711)
    (work / ".jobmaster.17").touch()
    options = ServerOptions(output_folder=open_folder / "output", work_folder=work)
    assert prepare_place(options) == prepare_place(options) == (work, ())


@pytest.mark.parametrize("work", ["output", "output/work", ".", "audit", "link"])
def test_where_output_or_audit_is_kept(open_folder: Path, work: str) -> None:
    """What is kept for long is neither there nor above it, by whatever path."""
    (open_folder / "output").mkdir(mode=0o711)
    (open_folder / "link").symlink_to("output")
    options = ServerOptions(
        output_folder=open_folder / "output", audit_folder=open_folder / "audit", work_folder=open_folder / work
    )
    with pytest.raises(ConfigurationError, match="is kept there, or it is in that"):
        prepare_place(options)
    assert list((open_folder / "output").iterdir()) == []


@as_root
@pytest.mark.parametrize("kind", ["writable", "another user's", "writable behind a link"])
def test_a_way_that_others_could_change(open_folder: Path, kind: str) -> None:
    """Who can put another folder in the place of one on the way could have root remove what is in that: it is refused."""
    parent = open_folder / "parent"
    parent.mkdir()
    if kind.startswith("writable"):
        parent.chmod(0o777)
    else:
        os.chown(parent, 65534, 65534)
        parent.chmod(0o755)
    named = parent
    if kind == "writable behind a link":
        (parent / "sub").mkdir(mode=0o755)
        named = open_folder / "link"
        named.symlink_to(parent / "sub")
    with pytest.raises(ConfigurationError, match="replace it"):
        prepare_place(ServerOptions(output_folder=open_folder / "output", work_folder=named / "work"))
    parent.chmod(0o1777)
    if kind.startswith("writable"):
        assert prepare_place(ServerOptions(output_folder=open_folder / "output", work_folder=named / "work"))[1] == ()


def test_a_check(open_folder: Path) -> None:
    """Whether a place would be taken is told without making it; the default one is no mistake of the configuration's."""
    work = open_folder / "work"
    options = ServerOptions(output_folder=open_folder / "output", work_folder=work)
    check_named_place(options)
    assert not work.exists()
    work.touch()
    with pytest.raises(ConfigurationError, match="is not a folder"):
        check_named_place(options)
    assert [line for line in unusable(options) if line.startswith("folders.work:")] != []
    (open_folder / "output-work").touch()
    check_named_place(ServerOptions(output_folder=open_folder / "output"))
