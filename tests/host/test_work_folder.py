"""Folders of jobs: made for a user, and removed whatever that user has made in them."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from jobmaster.host.work_folder import NotInTime, make, remove

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make folders of other users")

USER: Final = 2_147_000_000
NASTY: Final = """
import os, socket
os.mkfifo("fifo"); os.symlink("/etc/passwd", "link"); os.symlink("../outside", "away"); os.symlink("away", "fifo2")
os.mkdir("closed"); open("closed/file", "w").close(); os.chmod("closed", 0)
os.mkdir("no-write"); open("no-write/file", "w").close(); os.chmod("no-write", 0o500)
socket.socket(socket.AF_UNIX).bind("socket")
open("new\\nline", "w").close(); open(b"\\xff\\xfe", "w").close(); open("-rf", "w").close()
for number in range(1_000):
    open(f"file{number}", "w").close()
for _ in range(400):
    os.mkdir("deep"); open("beside", "w").close(); os.chdir("deep")
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that other users can enter and not write."""
    with tempfile.TemporaryDirectory(prefix="jobmaster-work-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def as_user(script: str, folder: Path) -> None:
    """Runs a script of Python in a folder as the user."""
    command = ["/usr/bin/python3", "-c", f"import os; os.chdir({str(folder)!r})\n{script}"]
    subprocess.run(command, user=USER, group=USER, extra_groups=[], check=True)


def for_ever() -> bool:
    """There is time."""
    return True


def in_thread(function: Callable[[], None]) -> None:
    """Runs it in a thread of its own, as it is meant to be; raises what it raises."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            function()
        except Exception as error:  # noqa: BLE001  # raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error


@pytest.mark.parametrize("umask", [0o000, 0o777], ids=oct)
def test_whose_it_is(root: Path, umask: int) -> None:
    """It is the user's alone, whatever the umask; there is none where there is one of that name already."""
    before = os.umask(umask)
    try:
        make(root / "job", USER, USER)
    finally:
        os.umask(before)
    details = (root / "job").stat()
    assert (details.st_uid, details.st_gid, stat.S_IMODE(details.st_mode)) == (USER, USER, 0o700)
    with pytest.raises(FileExistsError):
        make(root / "job", USER, USER)


def test_everything_that_a_user_can_make(root: Path) -> None:
    """Links, deep trees, closed folders and odd names go; what links lead to stays."""
    outside = root / "outside"
    make(outside, USER, USER)
    (outside / "precious").touch()
    make(root / "job", USER, USER)
    as_user(NASTY, root / "job")
    in_thread(lambda: remove(root / "job", goes_on=for_ever))
    assert [path.name for path in root.iterdir()] == ["outside"]
    assert (outside / "precious").exists()


def test_what_is_removed_already(root: Path) -> None:
    """There is nothing to do, nor in an empty folder."""
    remove(root / "job", goes_on=for_ever)
    make(root / "job", USER, USER)
    remove(root / "job", goes_on=for_ever)
    assert not (root / "job").exists()


def test_what_the_user_cannot_remove(root: Path) -> None:
    """What others have put there, as only root can, is left, and so is the folder; all else goes. Root's rights are not used."""
    make(root / "job", USER, USER)
    as_user("open('own', 'w').close(); os.mkdir('mine'); open('mine/file', 'w').close()", root / "job")
    (root / "job" / "others").mkdir(mode=0o755)
    (root / "job" / "others" / "file").touch()
    with pytest.raises(PermissionError):
        in_thread(lambda: remove(root / "job", goes_on=for_ever))
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["job", "job/others", "job/others/file"]


@pytest.mark.parametrize("where", ["mount", "."])
def test_what_is_mounted(root: Path, where: str) -> None:
    """A job of root may mount what is not its own, also over its folder: nothing in there is removed, and the folder is left."""
    precious = root / "precious"
    precious.mkdir()
    (precious / "file").touch()
    job = root / "job"
    make(job, 0, 0)
    (job / "mount").mkdir()
    (job / "file").touch()
    if subprocess.run(
        ["mount", "--bind", str(precious), str(job / where)], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(OSError, match="cross-device"):
            in_thread(lambda: remove(job, goes_on=for_ever))
        assert (precious / "file").exists()
        assert [path.name for path in job.iterdir()] == ["mount" if where == "mount" else "file"]
    finally:
        subprocess.run(["umount", str(job / where)], check=True)
    in_thread(lambda: remove(job, goes_on=for_ever))
    assert (precious / "file").exists()


def test_no_time(root: Path) -> None:
    """It ends where it is told to, and goes on from there the next time."""
    make(root / "job", USER, USER)
    as_user("for number in range(10): open(str(number), 'w').close()", root / "job")
    names = iter([True, True, True, False])
    with pytest.raises(NotInTime):
        in_thread(lambda: remove(root / "job", goes_on=lambda: next(names)))
    assert len(list((root / "job").iterdir())) == 7
    in_thread(lambda: remove(root / "job", goes_on=for_ever))
    assert not (root / "job").exists()


EXTREME: Final = """
import os
top = os.open(".", os.O_RDONLY)
for level in range(2_000):  # a path has 4,096 bytes at most, but trees have no bound
    os.mkdir(255 * "d"); os.chdir(255 * "d")
os.fchdir(top)
os.mkdir("wide")
for number in range(2_000):
    open(f"wide/{number:0255}", "w").close()
os.symlink("/", "wide/root"); os.link("wide/" + 255 * "0", "linked")
"""


def test_an_extreme_tree(root: Path) -> None:
    """A tree of 2,000 levels and one of as many of the longest names go in slices, with few descriptors open at a time."""
    make(root / "job", USER, USER)
    as_user(EXTREME, root / "job")
    most, names = 0, 0

    def goes_on() -> bool:
        nonlocal most, names
        names += 1
        if names % 500 == 0:
            most = max(most, len(os.listdir("/proc/self/fd")))
        return names % 1_000 != 0

    def work() -> None:
        for _ in range(1_000):
            try:
                remove(root / "job", goes_on=goes_on)
            except NotInTime:
                continue
            return

    in_thread(work)
    assert list(root.iterdir()) == []
    assert most < 300


def test_a_user_who_changes_it_meanwhile(root: Path) -> None:
    """A folder that has become a link since its name was read is not entered, nor is what the link leads to changed."""
    outside, job = root / "outside", root / "job"
    for path in (outside, job):
        make(path, USER, USER)
    as_user("open('precious', 'w').close(); os.chmod('.', 0o500)", outside)
    as_user("os.mkdir('a'); open('a/file', 'w').close()", job)

    def swap() -> bool:
        if not (job / ".a").exists() and (job / "a" / "file").exists():
            (job / "a").rename(job / ".a")
            (job / "a").symlink_to(outside)
        return True

    in_thread(lambda: remove(job, goes_on=swap))
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    assert not job.exists()


def test_the_process_can_still_dump_core(root: Path) -> None:
    """What a thread had for a moment changes nothing of the process (PR_GET_DUMPABLE), also where it fails."""
    dumpable = ctypes.CDLL(None).prctl
    assert dumpable(3, 0, 0, 0, 0) == 1
    for name, is_left in (("job", False), ("left", True)):
        make(root / name, USER, USER)
        as_user("open('file', 'w').close()", root / name)
        if is_left:
            (root / name / "others").mkdir(mode=0o755)
            (root / name / "others" / "file").touch()
        with suppress(PermissionError):
            in_thread(lambda name=name: remove(root / name, goes_on=for_ever))  # type: ignore[misc]  # likewise
        assert (root / name).exists() == is_left
        assert dumpable(3, 0, 0, 0, 0) == 1


def test_rights_come_back(root: Path) -> None:
    """The thread has the user's rights for files while it removes, no other thread has, and it has its own afterwards."""
    seen: list[tuple[str, str]] = []
    make(root / "job", USER, USER)
    as_user("open('file', 'w').close()", root / "job")

    def look() -> bool:
        seen.append((_fs_uid("thread-self"), _fs_uid(f"self/task/{os.getpid()}")))
        return True

    def work() -> None:
        remove(root / "job", goes_on=look)
        seen.append((_fs_uid("thread-self"), ""))

    in_thread(work)
    assert seen == [(str(USER), "0"), ("0", "")]


def _fs_uid(thread: str) -> str:
    lines = Path(f"/proc/{thread}/status").read_text().splitlines()
    return next(line.split()[4] for line in lines if line.startswith("Uid:"))
