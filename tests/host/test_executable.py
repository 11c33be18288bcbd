"""Whether a command can be run, judged on real files and, where the test is root, compared with the kernel."""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from jobmaster.errors import CommandNotRunnable, InvalidRequest
from jobmaster.host.account import Account
from jobmaster.host.executable import check_runnable

OTHER_ID: Final = 65533  # of nobody, and not of the account called nobody either
OTHER: Final = Account(name="other", uid=OTHER_ID, gid=OTHER_ID, groups=(OTHER_ID,), home="/")
ROOT: Final = Account(name="root", uid=0, gid=0, groups=(0,), home="/root")
NOT_FOUND: Final = "not found"
NOT_EXECUTABLE: Final = "not executable"

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as another user")


@pytest.fixture
def tree() -> Iterator[Path]:
    """A folder that every user can search, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="jobmaster-test-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


def program(path: Path, mode: int = 0o755) -> Path:
    """Makes a program that succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(mode)
    return path


def judge(command: str | Path, *, account: Account = OTHER, path: str = "/nonexistent", cwd: str | Path = "/") -> str:
    """'' when the command can be run, else the error's text."""
    try:
        check_runnable(str(command), account, path, str(cwd))
    except CommandNotRunnable as error:
        return str(error)
    return ""


def kernel_allows(command: str | Path, account: Account) -> bool:
    """Whether the kernel executes a file for an account."""
    try:
        subprocess.run([str(command)], check=True, user=account.uid, group=account.gid, extra_groups=account.groups)
    except OSError:
        return False
    return True


MODES: Final = [(0o755, True), (0o005, True), (0o754, False), (0o750, False), (0o644, False), (0o000, False)]


@pytest.mark.parametrize(("mode", "runs"), MODES)
def test_permission_bits_of_others(tree: Path, mode: int, runs: bool) -> None:
    """A file of another user and group is judged by the last three bits."""
    file = program(tree / "tool", mode)
    assert judge(file) == ("" if runs else f"command '{file}' is not executable for the jobs' user 'other'")


@root_only
@pytest.mark.parametrize(("mode", "runs"), MODES)
def test_the_kernel_agrees_on_the_bits_of_others(tree: Path, mode: int, runs: bool) -> None:
    """The table above is what execve(2) does."""
    assert kernel_allows(program(tree / "tool", mode), OTHER) is runs


def test_the_owner_is_judged_by_its_own_bits(tree: Path) -> None:
    """An owner without the bit may not execute what everybody else may."""
    file = program(tree / "tool", 0o655)
    owner = OTHER_ID if os.geteuid() == 0 else os.geteuid()
    os.chown(file, owner, -1)
    assert NOT_EXECUTABLE in judge(file, account=Account(name="o", uid=owner, gid=1, groups=(1,), home="/"))


@pytest.mark.parametrize(("mode", "runs"), [(0o615, True), (0o610, True), (0o705, False)])
def test_a_group_is_judged_by_its_own_bits(tree: Path, mode: int, runs: bool) -> None:
    """A member of the file's group, first group or not, is judged by the group's bits alone."""
    file = program(tree / "tool", mode)
    group = file.stat().st_gid
    member = Account(name="m", uid=OTHER_ID, gid=OTHER_ID, groups=(group, OTHER_ID), home="/")
    first = Account(name="f", uid=OTHER_ID, gid=group, groups=(), home="/")
    assert [judge(file, account=account) == "" for account in (member, first)] == [runs, runs]


@pytest.mark.parametrize(("mode", "runs"), [(0o755, True), (0o001, True), (0o666, False), (0o000, False)])
def test_root_needs_one_bit_of_anybody(tree: Path, mode: int, runs: bool) -> None:
    """Root executes a file that at least somebody may execute."""
    assert (judge(program(tree / "tool", mode), account=ROOT) == "") is runs


@root_only
def test_root_enters_every_folder(tree: Path) -> None:
    """Root searches a folder whatever its bits: the kernel does not ask root for them."""
    file = program(tree / "closed" / "tool")
    file.parent.chmod(0o600)
    assert kernel_allows(file, ROOT)
    assert judge(file, account=ROOT) == ""


def test_a_closed_folder_on_the_way(tree: Path) -> None:
    """A file below a folder that the account may not search is refused, however deep."""
    file = program(tree / "closed" / "open" / "tool")
    assert judge(file) == ""
    (tree / "closed").chmod(0o744)
    assert NOT_EXECUTABLE in judge(file)


@root_only
def test_a_link_behind_a_closed_folder(tree: Path) -> None:
    """A link is of no use to an account that may not search the link's own folder."""
    program(tree / "tool")
    (tree / "closed").mkdir(mode=0o700)
    (tree / "closed" / "link").symlink_to(tree / "tool")
    assert not kernel_allows(tree / "closed" / "link", OTHER)
    assert NOT_EXECUTABLE in judge(tree / "closed" / "link")


def test_links_are_followed(tree: Path) -> None:
    """A link stands for its target: runnable, missing, or a circle."""
    program(tree / "tool")
    (tree / "good").symlink_to("tool")
    (tree / "dangling").symlink_to("nothing")
    (tree / "circle").symlink_to("circle")
    assert judge(tree / "good") == ""
    assert NOT_FOUND in judge(tree / "dangling")
    assert NOT_EXECUTABLE in judge(tree / "circle")


def test_a_folder_is_no_command(tree: Path) -> None:
    """A folder has the x bit and cannot be executed."""
    assert NOT_EXECUTABLE in judge(tree)


@pytest.mark.parametrize("ending", ["/", "/.", "/more"])
def test_a_file_is_no_folder(tree: Path, ending: str) -> None:
    """A path that goes on after a file is refused, as execve(2) does (ENOTDIR)."""
    assert NOT_FOUND in judge(f"{program(tree / 'tool')}{ending}")


def test_path_is_searched_in_order(tree: Path) -> None:
    """The first folder of PATH with a runnable entry decides; missing folders and files on the way are passed over."""
    program(tree / "second" / "tool")
    (tree / "file").touch()
    assert judge("tool", path=f"{tree}/none:{tree}/file:{tree}/second") == ""
    assert judge("tool", path=f"{tree}/none") == f"command 'tool' not found in the jobs' PATH ({tree}/none)"


def test_a_denied_entry_is_passed_over_and_remembered(tree: Path) -> None:
    """PATH goes on after a denied entry or a folder of the name; when nothing better comes, "denied" is the answer."""
    program(tree / "denied" / "tool", 0o644)
    (tree / "folder" / "tool").mkdir(parents=True)
    program(tree / "good" / "tool")
    bad = f"{tree}/denied:{tree}/folder"
    assert judge("tool", path=f"{bad}:{tree}/good") == ""
    assert NOT_EXECUTABLE in judge("tool", path=f"{bad}:{tree}/none")


def test_relative_paths_start_in_the_working_folder(tree: Path) -> None:
    """A name with a slash, a relative folder of PATH and an empty one are all meant from the working folder."""
    program(tree / "bin" / "tool")
    assert judge("bin/tool", cwd=tree) == ""
    assert judge("./bin/tool", cwd=tree) == ""
    assert judge("tool", path="bin", cwd=tree) == ""
    assert judge("tool", path="", cwd=tree / "bin") == ""


def test_a_name_with_a_slash_is_not_searched(tree: Path) -> None:
    """PATH has no say about a name with a slash."""
    program(tree / "bin" / "tool")
    assert judge("bin/tool", path=str(tree)) == "command 'bin/tool' not found"


def test_a_name_too_long_for_a_file(tree: Path) -> None:
    """A name beyond NAME_MAX is refused in a text of bounded length."""
    text = judge("x" * 4000, path=str(tree))
    assert NOT_EXECUTABLE in text
    assert len(text) < 512


@pytest.mark.parametrize("command", ["x" * 4096, "é" * 2048, "/" + "a/" * 2048])
def test_a_name_too_long_for_a_path(command: str) -> None:
    """A name beyond PATH_MAX, in bytes, is the caller's mistake."""
    with pytest.raises(InvalidRequest, match="longer than a path"):
        check_runnable(command, OTHER, "/bin", "/")


def access_list_for(uid: int) -> bytes:
    """A POSIX access control list, as the kernel stores it, that lets the owner and one more user execute."""
    undefined = 0xFFFFFFFF
    entries = [(0x01, 7, undefined), (0x02, 5, uid), (0x04, 0, undefined), (0x10, 5, undefined), (0x20, 0, undefined)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_an_access_control_list_is_left_to_the_kernel(tree: Path) -> None:
    """Where bits deny and an access control list may allow, the command is let through to the kernel."""
    file = program(tree / "tool", 0o700)
    assert NOT_EXECUTABLE in judge(file)
    try:
        os.setxattr(file, "system.posix_acl_access", access_list_for(OTHER_ID))
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    assert judge(file) == ""
