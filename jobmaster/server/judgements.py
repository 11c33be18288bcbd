"""What both a server that starts and `jobmaster doctor` think of what they have looked at. Pure."""

from __future__ import annotations

import stat
from datetime import timedelta
from typing import TYPE_CHECKING, Final, assert_never

from jobmaster.certs.folder import CLIENT_AUTHORITY, SERVER, SERVER_AUTHORITY
from jobmaster.certs.key_files import MAKE_THEM, REPLACE_THEM
from jobmaster.host.account import Account
from jobmaster.host.cgroup.limits import Controller, Limits
from jobmaster.host.uid_range import UidRange
from jobmaster.identity.certificate import Validity
from jobmaster.run.limits import (
    LEAST_BYTES_PER_SECOND,
    LEAST_MILLICORES,
    LEAST_OPERATIONS_PER_SECOND,
    MILLI,
    millicores,
)
from jobmaster.server.findings import Finding, Verdict
from jobmaster.sizes import size_text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from jobmaster.certs.inspection import CertificateFile
    from jobmaster.host.cgroup.controllers import Enforcement
    from jobmaster.run.accounts import AccountPolicy

SOON: Final = timedelta(days=30)
"""A certificate that expires sooner is warned of."""
MOST_NAMED: Final = 10
"""Clients in a line."""
AUTHORITIES: Final = (SERVER_AUTHORITY, CLIENT_AUTHORITY)


def of_limits(
    enforcement: Enforcement, defaults: Mapping[str, str], device: str | None, *, all_required: bool
) -> Iterator[Finding]:
    """A finding for each controller, called as it.

    Args:
        enforcement: what the host does.
        defaults: the limit of every job by the controller's name, where there is one.
        device: the disk that IO limits are about, if any.
        all_required: a server is to start only where all limits are enforced.
    """
    for state in enforcement.states:
        name = str(state.controller)
        reason = enforcement.why_not(state.controller)
        of_device = f" on {device or 'no device'}" if state.controller is Controller.IO else ""
        limit = f"limit for each job: {defaults.get(name, 'none')}{of_device}"
        if reason is None:
            yield Finding(topic=name, verdict=Verdict.OK, text=f"{limit}; enforced by the {name} controller")
        else:
            verdict = Verdict.MISSING if all_required else Verdict.WARNING
            yield Finding(topic=name, verdict=verdict, text=f"{limit}; NOT ENFORCED: {reason}")


def of_small_limits(limits: Limits) -> Iterator[Finding]:
    """What limits of every job do to its callers and to others, where they are less than any job may ask for."""
    if limits.cpu_max is not None and millicores(limits.cpu_max) < LEAST_MILLICORES:
        yield Finding(
            topic="cpu",
            verdict=Verdict.WARNING,
            text=f"--cpu-max {limits.cpu_max:g} is so little that a slow host may not come to execute a job's command in time",
            remedy=f"allow {LEAST_MILLICORES / MILLI:g} or more",
        )
    io = limits.io
    for option, rate, least, shown in (
        ("--io-read-bps", io.read_bps, LEAST_BYTES_PER_SECOND, size_text),
        ("--io-write-bps", io.write_bps, LEAST_BYTES_PER_SECOND, size_text),
        ("--io-read-iops", io.read_iops, LEAST_OPERATIONS_PER_SECOND, str),
        ("--io-write-iops", io.write_iops, LEAST_OPERATIONS_PER_SECOND, str),
    ):
        if rate is not None and rate < least:
            yield Finding(
                topic="io",
                verdict=Verdict.WARNING,
                text=f"{option} {shown(rate)} is so little that one job can hold up for long whoever else uses that disk, "
                "this server too where its output folder is there",
                remedy=f"allow {shown(least)} or more, or name a disk that others do not use by --iodevice-id",
            )


def of_accounts(accounts: AccountPolicy, *, drops_privileges: bool) -> Finding:
    """As whom jobs run, and what that does not keep apart; a server that `drops_privileges` is root."""
    verdict, text, remedy = Verdict.OK, f"jobs run as {name_of(accounts)}", ""
    if isinstance(accounts.common, UidRange):
        if faults := _shared_users(accounts):
            verdict, text, remedy = (
                Verdict.WARNING,
                "; ".join(faults),
                "name another user in clients.NAME.run_as, or none",
            )
    elif accounts.common.is_root:
        verdict, text = Verdict.WARNING, "jobs that run as root can leave their cgroup and its limits"
        remedy = "leave --run-as out, or name another user"
    elif drops_privileges:
        verdict, text = (
            Verdict.WARNING,
            "; ".join(
                ("jobs of all clients run as one user and can read, signal and trace one another", *_roots(accounts))
            ),
        )
        remedy = "leave --run-as out"
    else:
        verdict, remedy = Verdict.WARNING, "run it as root"
        text = (
            "this server is not root, so jobs of all clients run as its own user, and can read, signal and trace one another "
            "and the server"
        )
    return Finding(topic="jobs' user", verdict=verdict, text=text, remedy=remedy)


def _roots(accounts: AccountPolicy) -> list[str]:
    """The clients whose jobs run as root, in words."""
    found = [name for name, account in accounts.of_clients.items() if isinstance(account, Account) and account.is_root]
    return [f"jobs of {_listed(found)} run as root, and can leave their cgroup and its limits"] if found else []


def _shared_users(accounts: AccountPolicy) -> list[str]:
    """What of the clients' own users keeps nothing apart, in words."""
    by_user: dict[int, list[str]] = {}
    names = {each.uid: each.name for each in accounts.of_clients.values() if isinstance(each, Account)}
    for client, account in accounts.of_clients.items():
        if isinstance(account, Account) and not account.is_root:
            by_user.setdefault(account.uid, []).append(client)
    return _roots(accounts) + [
        f"jobs of {_listed(clients)} run as {names[uid]}, and can read, signal and trace one another"
        for uid, clients in sorted(by_user.items())
        if len(clients) > 1
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(sorted(names)[:MOST_NAMED]) + more


def name_of(accounts: AccountPolicy) -> str:
    """As whom jobs run, in words."""
    match accounts.common:
        case UidRange() as uids:
            common = f"a user of each client's own ({uids})"
        case Account() as account:
            common = account.name
        case unreachable:
            assert_never(unreachable)
    users = [f"{client} as {_user(account)}" for client, account in accounts.of_clients.items()]
    return f"{common}, those of {_listed(users)}" if users else common


def _user(account: Account | str) -> str:
    return account.name if isinstance(account, Account) else f"{account} (who is not there)"


def fault_of_folder(what: str, folder: Path, details: os.stat_result, *, uid: int) -> str | None:
    """Why a server of this uid does not keep anything in the output or audit folder, with the remedy; None where it does.

    Args:
        what: "output" or "audit".
        folder: its path.
        details: of lstat(2).
        uid: effective, of the server.
    """
    if stat.S_ISLNK(details.st_mode):
        return f"{what} folder {folder} is a symbolic link; name the folder itself"
    if not stat.S_ISDIR(details.st_mode):
        return f"{what} folder {folder} is not a folder; name another"
    if details.st_uid != uid:
        return f"{what} folder {folder} belongs to another user (uid {details.st_uid}); name another"
    if details.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{what} folder {folder} can be written by others; chmod go-w it or name another"
    return None


def of_certificate(file: CertificateFile, now: datetime) -> Finding:
    """A certificate of the certificate folder: out of its period, or soon."""
    if file.fault is not None:
        return _certificate(Verdict.MISSING, file.fault)
    match file.validity(now):
        case Validity.NOT_YET:
            text = f"{file.name} is not valid before {file.not_before:%Y-%m-%d %H:%M} UTC"
            return _certificate(Verdict.MISSING, text, f"set this host's clock right, or {REPLACE_THEM}")
        case Validity.EXPIRED:
            text = f"{file.name} expired at {file.not_after:%Y-%m-%d %H:%M} UTC"
            return _certificate(Verdict.MISSING, text, _renewal_of(file.who))
        case Validity.VALID:
            left = file.not_after - now
            text = f"{file.name} is valid until {file.not_after:%Y-%m-%d} ({left.days} days)"
            if left < SOON:
                return _certificate(Verdict.WARNING, text, _renewal_of(file.who))
            return _certificate(Verdict.OK, text)


def of_absent_certificate(who: str, folder: Path) -> Finding:
    """The certificate of an authority or the server that is not there."""
    if who == SERVER_AUTHORITY:
        text = f"{folder} has no {who}_cert.pem, without which clients trust no server"
        return _certificate(Verdict.WARNING, text, "put a copy there for those who use this folder")
    return _certificate(Verdict.MISSING, f"{folder} has no {who}_cert.pem", MAKE_THEM)


def _certificate(verdict: Verdict, text: str, remedy: str = "") -> Finding:
    return Finding(topic="certificate", verdict=verdict, text=text, remedy=remedy)


def _renewal_of(who: str) -> str:
    if who == SERVER or who in AUTHORITIES:
        return REPLACE_THEM
    return f"`python -m jobmaster.certs issue {who} --force` makes a new one; or remove its files"
