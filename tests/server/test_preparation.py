"""What is checked of a host before the server is ready, as far as plain folders can show it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobmaster.errors import ConfigurationError
from jobmaster.host.account import look_up
from jobmaster.host.cgroup.controllers import EVERY_CONTROLLER
from jobmaster.host.cgroup.limits import Limits
from jobmaster.host.uid_range import DEFAULT_UID_RANGE, SMALL_UID_RANGE, UidRange
from jobmaster.run.client_terms import ClientTerms
from jobmaster.server import preparation
from jobmaster.server.options import ServerOptions
from jobmaster.server.preparation import (
    accounts_of_jobs,
    is_run_as_root,
    prepare,
    prepare_folder,
    totals_of_clients,
    unenforced_totals,
)


def mode(path: Path) -> int:
    """The permission bits of what is at a path itself."""
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Different umasks that a server may be started with."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_a_missing_output_folder_is_made(tmp_path: Path, umask: None) -> None:
    """The folder is made with its parents, and is for its owner alone, whatever the umask."""
    prepare_folder("output", tmp_path / "a" / "b" / "output")
    assert mode(tmp_path / "a" / "b" / "output") == 0o700


@pytest.mark.parametrize("permissions", [0o700, 0o750, 0o755])
def test_an_output_folder_that_others_cannot_write_is_taken(tmp_path: Path, permissions: int) -> None:
    """A folder of one's own is taken as it is, with what is in it."""
    folder = tmp_path / "output"
    folder.mkdir()
    folder.chmod(permissions)
    (folder / "old.log").write_text("old")
    prepare_folder("output", folder)
    assert mode(folder) == permissions
    assert (folder / "old.log").read_text() == "old"


@pytest.mark.parametrize("permissions", [0o770, 0o720, 0o702, 0o777, 0o1777])
def test_an_output_folder_that_others_can_write_is_refused(tmp_path: Path, permissions: int) -> None:
    """Where others can put links and files no output is kept; the remedy is told."""
    folder = tmp_path / "output"
    folder.mkdir()
    folder.chmod(permissions)
    with pytest.raises(ConfigurationError, match=f"{folder} can be written by others; chmod go-w"):
        prepare_folder("output", folder)
    assert mode(folder) == permissions


@pytest.mark.parametrize("target_exists", [True, False])
def test_a_link_in_place_of_the_output_folder_is_refused(tmp_path: Path, target_exists: bool) -> None:
    """A symbolic link is not followed, and nothing is made at its target."""
    target = tmp_path / "target"
    if target_exists:
        target.mkdir(mode=0o700)
    (tmp_path / "output").symlink_to(target)
    with pytest.raises(ConfigurationError, match="symbolic link"):
        prepare_folder("output", tmp_path / "output")
    assert target.exists() is target_exists


def test_a_file_in_place_of_the_output_folder_is_refused(tmp_path: Path) -> None:
    """A file is no folder."""
    (tmp_path / "output").touch()
    with pytest.raises(ConfigurationError, match="is not a folder"):
        prepare_folder("output", tmp_path / "output")


@pytest.mark.parametrize("below", ["output", "a/output", "a/b/output"])
def test_an_output_folder_below_a_file_is_refused(tmp_path: Path, below: str) -> None:
    """A path through a file is a mistake of configuration, however deep below it."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="output folder"):
        prepare_folder("output", tmp_path / "file" / below)


def test_an_output_folder_that_cannot_be_made_is_refused() -> None:
    """The kernel's reason is in the text."""
    with pytest.raises(ConfigurationError, match="/proc/jobmaster: cannot be made: "):
        prepare_folder("output", Path("/proc/jobmaster"))


def test_an_output_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that another user owns, who can read and change all in it, is refused."""
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigurationError, match=rf"belongs to another user \(uid {owner}\)"):
        prepare_folder("output", tmp_path)


def options(tmp_path: Path, run_as: str | None = None) -> ServerOptions:
    """Options that come to nothing at the cgroup, which is a plain folder, at the latest."""
    return ServerOptions(output_folder=tmp_path / "output", cgroup_root=tmp_path / "no-cgroup", run_as=run_as)


def test_an_unknown_account_is_refused_first(tmp_path: Path) -> None:
    """An account that is not there stops the server before anything is made."""
    with pytest.raises(ConfigurationError, match="no-such-user: no such user"):
        prepare(options(tmp_path, "no-such-user"), open_files=100)
    assert not (tmp_path / "output").exists()


def test_only_root_can_run_jobs_as_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not root refuses another account; its own, named, is one it has."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(ConfigurationError, match="--run-as root: only a server that runs as root"):
        prepare(options(tmp_path, "root"), open_files=100)


def test_a_cgroup_root_that_is_no_cgroup(tmp_path: Path) -> None:
    """A plain folder is refused as the root of cgroups: limits written there would mean nothing."""
    with pytest.raises(ConfigurationError, match="no-cgroup"):
        prepare(options(tmp_path), open_files=100)


def test_only_root_has_users_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not root refuses a range of user ids."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    uids = UidRange(first=5_000, last=6_000)
    with pytest.raises(ConfigurationError, match="--uid-range 5000-6000: only a server that runs as root"):
        prepare(replace(options(tmp_path), uid_range=uids), open_files=100)


@pytest.mark.parametrize(
    ("last", "given", "found"),
    [
        (2**32 - 2, None, DEFAULT_UID_RANGE),
        (65_535, None, SMALL_UID_RANGE),
        (65_535, UidRange(first=5_000, last=6_000), UidRange(first=5_000, last=6_000)),
        (65_535, DEFAULT_UID_RANGE, None),
        (5_000, None, None),
    ],
)
def test_users_that_the_namespace_has(
    monkeypatch: pytest.MonkeyPatch, last: int, given: UidRange | None, found: UidRange | None
) -> None:
    """A range is one whose ids this process can give; where it was not named, the small one does; else the remedy is said."""
    monkeypatch.setattr(preparation, "are_mapped", lambda uids: uids.last <= last)
    if found is None:
        with pytest.raises(ConfigurationError, match=r"user namespace .* --run-as"):
            preparation._of_each_client(given)
    else:
        assert preparation._of_each_client(given) == found


def test_users_of_single_clients() -> None:
    """One that is not there is an error, but for a server that has other clients' jobs; root counts for the unit."""
    options = ServerOptions(output_folder=Path("/srv"), terms={"ann": ClientTerms(run_as="no-such-user")})
    with pytest.raises(ConfigurationError, match=r"clients\.ann\.run_as no-such-user: no such user on this host"):
        accounts_of_jobs(options)
    with pytest.raises(ConfigurationError, match=r"clients\.ann\.run_as"):
        is_run_as_root(options)
    assert accounts_of_jobs(options, needs_all_users=False).of_clients == {"ann": "no-such-user"}
    for user, is_root in (("root", True), ("nobody", False)):
        named = replace(options, terms={"ann": ClientTerms(run_as=user), "bob": ClientTerms()})
        assert is_run_as_root(named) is is_root
        if os.geteuid() == 0:
            assert accounts_of_jobs(named).of_clients == {"ann": look_up(user)}


def test_totals_that_are_not_enforced() -> None:
    """They are named with the key and the reason; what no client has is not."""
    terms = {"ann": ClientTerms(total=Limits(cpu_max=1, pids_max=5)), "bob": ClientTerms(run_as="nobody")}
    options = ServerOptions(output_folder=Path("/srv"), terms=terms)
    assert totals_of_clients(options) == {"ann": Limits(cpu_max=1, pids_max=5)}
    found = unenforced_totals(options, EVERY_CONTROLLER.without("of a reason"))
    assert found == [f"clients.ann.total.{name} is NOT ENFORCED: of a reason" for name in ("cpu_max", "pids_max")]
