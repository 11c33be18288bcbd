"""The account that jobs run as."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from jobmaster.errors import ConfigurationError
from jobmaster.host.account import SEARCH_PATH, Account, account_of_client, look_up, own_account


def test_an_account_by_name_and_by_number() -> None:
    """The host's own entry is found by its name and by its uid."""
    entry = pwd.getpwuid(0)
    account = look_up(entry.pw_name)
    assert (account.name, account.uid, account.gid, account.home) == (entry.pw_name, 0, entry.pw_gid, entry.pw_dir)
    assert look_up("0") == account
    assert account.is_root


def test_an_account_has_all_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary group and each group that lists the user are there, once, and no other."""
    user = pwd.struct_passwd(("worker", "x", 4711, 500, "", "/home/worker", "/bin/sh"))
    groups = [
        grp.struct_group(("video", "x", 44, ["someone", "worker"])),
        grp.struct_group(("workers", "x", 500, ["worker"])),
        grp.struct_group(("sudo", "x", 27, ["someone"])),
    ]
    monkeypatch.setattr(pwd, "getpwnam", {"worker": user}.__getitem__)
    monkeypatch.setattr(grp, "getgrall", lambda: groups)
    account = look_up("worker")
    assert account == Account(name="worker", uid=4711, gid=500, groups=(44, 500), home="/home/worker")
    assert not account.is_root


@pytest.mark.parametrize(
    "name", ["no-such-user-here", "4294967290", "99999999999999999999", "9" * 5000, "a\0b", "", "-1"]
)
def test_an_unknown_account_is_a_mistake_of_configuration(name: str) -> None:
    """A name or number that the host does not know is refused, with the option it came from."""
    with pytest.raises(ConfigurationError, match="--run-as"):
        look_up(name)


def test_the_own_account() -> None:
    """A server that is not root runs jobs as itself."""
    assert own_account().uid == os.geteuid()


def test_the_environment_is_complete_and_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job gets a fixed set of variables, those of its account and its own id, and nothing of the server's."""
    monkeypatch.setenv("LD_PRELOAD", "/tmp/evil.so")
    account = Account(name="worker", uid=4711, gid=500, groups=(500,), home="/home/worker")
    assert account.environment(job_id="0" * 27, client="client1") == {
        "PATH": SEARCH_PATH,
        "HOME": "/home/worker",
        "USER": "worker",
        "LOGNAME": "worker",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # of the job
        "JOBMASTER_JOB_ID": "0" * 27,
        "JOBMASTER_CLIENT": "client1",
    }


def test_an_account_that_is_a_number() -> None:
    """It has one group, a name for the environment alone, and is known by its number; one of the host by its name."""
    account = account_of_client("client1", 2_100_000_007)
    assert (account.uid, account.gid, account.groups) == (2_100_000_007, 2_100_000_007, (2_100_000_007,))
    assert account.shown == "2100000007"
    environment = account.environment(job_id="0" * 27, client="client1")
    assert (environment["USER"], environment["LOGNAME"], environment["HOME"]) == (
        "jobmaster-client1",
        "jobmaster-client1",
        "/nonexistent",
    )
    assert look_up("0").shown == pwd.getpwuid(0).pw_name


def test_a_folder_of_the_jobs_own() -> None:
    """It is for temporary files, and the home of a user who has no other."""
    folder = Path("/work/job")
    number = account_of_client("client1", 2_100_000_007).environment(job_id="0", client="client1", folder=folder)
    assert (number["TMPDIR"], number["HOME"]) == ("/work/job", "/work/job")
    named = look_up("0").environment(job_id="0", client="client1", folder=folder)
    assert (named["TMPDIR"], named["HOME"]) == ("/work/job", pwd.getpwuid(0).pw_dir)
