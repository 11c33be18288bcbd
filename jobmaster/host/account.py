"""The account that jobs run as: user, groups, and the clean environment that goes with them."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobmaster.errors import ConfigurationError

NO_HOME: Final = "/nonexistent"
"""The home of who has none (Debian's base-passwd)."""
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of every job."""
_SHOWN = 100
"""Characters of a name that is not known, in what is said of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user of the host, with all its groups.

    Attributes:
        has_entry: it is in the host's table of users; else `name` is for the environment alone.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    has_entry: bool = True

    @property
    def shown(self) -> str:
        """By what the host's own tools know it: the name, or the number where it has none."""
        return self.name if self.has_entry else str(self.uid)

    @property
    def is_root(self) -> bool:
        """True when jobs run with all of root's power."""
        return self.uid == 0

    def environment(self, *, job_id: str, client: str, folder: Path | None = None) -> dict[str, str]:
        """The whole environment of a job: nothing of the server's is in it.

        Args:
            job_id: of the job.
            client: whose job it is.
            folder: the job's own, for its temporary files, and the home of a user who has no other.
        """
        own = {} if folder is None else {"TMPDIR": str(folder)}
        return {
            "PATH": SEARCH_PATH,
            "HOME": self.home if self.has_entry or folder is None else str(folder),
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "TMPDIR": "/tmp",  # noqa: S108  # of the job
            "JOBMASTER_JOB_ID": job_id,
            "JOBMASTER_CLIENT": client,
            **own,
        }


def look_up(name: str, key: str = "--run-as") -> Account:
    """The account called `name` (or with that numeric uid). Blocks as long as the host's directory of users does.

    Args:
        name: of the user.
        key: what has named it, for people.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError, ValueError):  # ValueError: a NUL, or digits without end
        called = f"{name[:_SHOWN]}…" if len(name) > _SHOWN else name
        raise ConfigurationError(f"{key} {called}: no such user on this host; name one that `id` knows") from None
    groups = tuple(sorted({entry.pw_gid, *(g.gr_gid for g in grp.getgrall() if entry.pw_name in g.gr_mem)}))
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, groups=groups, home=entry.pw_dir or "/")


def account_of_client(client: str, number: int) -> Account:
    """A user, and a group, that are only a number, given to one client's jobs."""
    return Account(name=f"jobmaster-{client}", uid=number, gid=number, groups=(number,), home=NO_HOME, has_entry=False)


def own_account() -> Account:
    """The account this process runs as."""
    return look_up(str(os.geteuid()))
