"""Gets this host ready for jobs, or says why it cannot be: folders, account, cgroups, limits.

Everything here happens once, before the server is ready. What a job then needs is in `LocalTerms`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobmaster.errors import ConfigurationError
from jobmaster.host.account import Account, look_up, own_account
from jobmaster.host.cgroup import devices
from jobmaster.host.cgroup.controllers import Enforcement
from jobmaster.host.cgroup.limits import Controller
from jobmaster.host.cgroup.startup import open_cgroups
from jobmaster.run.limits import Capabilities, Ceilings, LimitPolicy, default_limits
from jobmaster.run.local import LocalTerms
from jobmaster.server.options import ServerOptions

DEFAULT_ACCOUNT: Final = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A host that is ready for jobs, and the lines that say how."""

    terms: LocalTerms
    report: tuple[str, ...]


def prepare(options: ServerOptions, *, open_files: int) -> Prepared:
    """Gets the host ready.

    Args:
        options: of the server.
        open_files: soft RLIMIT_NOFILE of the jobs.

    Raises:
        ConfigurationError: an option is wrong, or the host cannot do what was asked; says the remedy.
        CgroupError: the cgroup file system refused something.
    """
    account = _account(options.run_as)
    prepare_folder("output", options.output_folder)
    device = _io_device(options)
    opened = open_cgroups(options.cgroup_root)
    tree, enforcement = opened.tree, opened.enforcement
    if options.require_limits:
        _require_all(enforcement)
    terms = LocalTerms(
        tree=tree,
        limits=LimitPolicy(
            defaults=options.limits,
            ceilings=Ceilings.of(options.limits),
            capabilities=Capabilities(
                enforcement=enforcement,
                io_device=device,
                no_io_weights_because=opened.no_io_weights_because,
            ),
            oom_policy=options.oom_policy,
        ),
        output_folder=options.output_folder,
        output_max=options.output_max,
        account=account,
        drops_privileges=os.geteuid() == 0,
        open_files=open_files,
    )
    return Prepared(terms=terms, report=tuple(_report(terms, enforcement, device)))


def prepare_output_folder(options: ServerOptions) -> None:
    """Makes the output folder, if there is a user to run jobs as; nothing else is made where another server has it.

    Raises:
        ConfigurationError: as `prepare`.
    """
    _account(options.run_as)
    prepare_folder("output", options.output_folder)


def prepare_folder(what: str, folder: Path) -> None:
    """Makes the output or audit folder, 0700, or checks the one there is. Blocks as long as its disk does.

    Raises:
        ConfigurationError: it is a symbolic link, no folder, somebody else's, or others may write it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        details = folder.lstat()
    except OSError as error:
        raise ConfigurationError(f"{what} folder {folder}: cannot be made: {error.strerror}") from None
    if stat.S_ISLNK(details.st_mode):
        raise ConfigurationError(f"{what} folder {folder} is a symbolic link; name the folder itself")
    if not stat.S_ISDIR(details.st_mode):
        raise ConfigurationError(f"{what} folder {folder} is not a folder; name another")
    if details.st_uid != os.geteuid():
        raise ConfigurationError(f"{what} folder {folder} belongs to another user (uid {details.st_uid}); name another")
    if details.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"{what} folder {folder} can be written by others; chmod go-w it or name another")


def _account(run_as: str | None) -> Account:
    if os.geteuid() == 0:
        return look_up(DEFAULT_ACCOUNT if run_as is None else run_as)
    account = own_account()
    if run_as is not None and look_up(run_as) != account:
        raise ConfigurationError(f"--run-as {run_as}: only a server that runs as root can run jobs as another user")
    return account


def _io_device(options: ServerOptions) -> str | None:
    if options.io_device is not None:
        return str(devices.resolve_device(options.io_device))
    device = devices.device_under(options.output_folder)
    if device is None and options.limits.io.limited:
        listing = ", ".join(f"{disk.number} {disk.name}" for disk in devices.list_devices()) or "none"
        raise ConfigurationError(
            f"IO limits need a block device and {options.output_folder} is on none; "
            f"name one with --iodevice-id (there are: {listing})"
        )
    return str(device) if device is not None else None


def _require_all(enforcement: Enforcement) -> None:
    missing = [
        f"{state.controller}: {reason}"
        for state in enforcement.states
        if (reason := enforcement.why_not(state.controller))
    ]
    if missing:
        raise ConfigurationError(f"--require-limits: this host does not enforce every limit ({'; '.join(missing)})")


def _report(terms: LocalTerms, enforcement: Enforcement, device: str | None) -> Iterator[str]:
    account = terms.account
    yield f"jobs run as {account.name} in cgroups under {terms.tree.jobs}; their output is kept in {terms.output_folder}"
    if account.is_root:
        yield "warning: jobs that run as root can leave their cgroup and its limits"
    defaults = {report.name: report.value for report in default_limits(terms.limits).reports}
    for state in enforcement.states:
        name = str(state.controller)
        reason = enforcement.why_not(state.controller)
        verdict = f"enforced by the {name} controller" if reason is None else f"NOT ENFORCED: {reason}"
        of_device = f" on {device or 'no device'}" if state.controller is Controller.IO else ""
        yield f"  {name:<6} limit for each job: {defaults.get(name, 'none')}{of_device}; {verdict}"
