"""Gets this host ready for jobs, or says why it cannot be: folders, account, cgroups, limits.

Everything here happens once, before the server is ready. What a job then needs is in `LocalTerms`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from jobmaster.errors import ConfigurationError
from jobmaster.host.account import look_up, own_account
from jobmaster.host.cgroup import devices
from jobmaster.host.cgroup.controllers import Enforcement, foresee_controllers
from jobmaster.host.cgroup.limits import IoLimits
from jobmaster.host.cgroup.mounts import find_cgroup2, read_mounts
from jobmaster.host.cgroup.startup import open_cgroups
from jobmaster.host.uid_range import DEFAULT_UID_RANGE, SMALL_UID_RANGE, UidRange
from jobmaster.host.user_ids import are_mapped
from jobmaster.run.accounts import AccountPolicy
from jobmaster.run.limits import Capabilities, Ceilings, LimitPolicy, default_limits
from jobmaster.run.local import LocalTerms
from jobmaster.server.findings import Finding, as_report
from jobmaster.server.judgements import fault_of_folder, name_of, of_accounts, of_limits, of_small_limits
from jobmaster.server.options import ServerOptions
from jobmaster.server.work_place import prepare_place


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A host that is ready for jobs, and the lines that say how.

    Attributes:
        enforcement: why each kind of limit is not enforced, by the controller's name; None where it is.
    """

    terms: LocalTerms
    enforcement: tuple[tuple[str, str | None], ...]
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
    accounts = accounts_of_jobs(options.run_as, options.uid_range)
    prepare_folder("output", options.output_folder)
    work_folder, why_none = prepare_place(options)
    device = io_device(options, options.output_folder)
    opened = open_cgroups(options.cgroup_root)
    tree, enforcement = opened.tree, opened.enforcement
    if options.require_limits:
        _require_all(enforcement)
    terms = LocalTerms(
        tree=tree,
        limits=_policy(
            options,
            Capabilities(
                enforcement=enforcement,
                io_device=device,
                no_io_weights_because=opened.no_io_weights_because,
            ),
        ),
        output_folder=options.output_folder,
        output_max=options.output_max,
        accounts=accounts,
        drops_privileges=os.geteuid() == 0,
        open_files=open_files,
        work_folder=work_folder,
        work_free=options.work_free,
    )
    why_not = tuple((str(state.controller), enforcement.why_not(state.controller)) for state in enforcement.states)
    report = (*_report(terms, limits_of_jobs(options, enforcement, device)), *why_none)
    return Prepared(terms=terms, enforcement=why_not, report=report)


def prepare_output_folder(options: ServerOptions) -> None:
    """Makes the output folder, if there is a user to run jobs as; nothing else is made where another server has it.

    Raises:
        ConfigurationError: as `prepare`.
    """
    accounts_of_jobs(options.run_as, options.uid_range)
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
    _require_sound_folder(what, folder, details)


def check_folder(what: str, folder: Path) -> None:
    """As `prepare_folder`, of a folder that is there; one that is not would be made.

    Raises:
        ConfigurationError: as `prepare_folder`.
    """
    try:
        details = folder.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"{what} folder {folder}: {error.strerror}") from None
    _require_sound_folder(what, folder, details)


def _require_sound_folder(what: str, folder: Path, details: os.stat_result) -> None:
    fault = fault_of_folder(what, folder, details, uid=os.geteuid())
    if fault is not None:
        raise ConfigurationError(fault)


def nearest_of(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.parents) if os.path.lexists(each))


def accounts_of_jobs(run_as: str | None, uids: UidRange | None) -> AccountPolicy:
    """As whom jobs run, by --run-as and --uid-range. Blocks as long as the host's directory of users does.

    Raises:
        ConfigurationError: there is none of the name, or this server, which is not root, is another; or the range is not there.
    """
    if os.geteuid() == 0:
        return AccountPolicy(common=_of_each_client(uids) if run_as is None else look_up(run_as))
    account = own_account()
    if run_as is not None and look_up(run_as) != account:
        raise ConfigurationError(f"--run-as {run_as}: only a server that runs as root can run jobs as another user")
    if uids is not None:
        raise ConfigurationError(f"--uid-range {uids}: only a server that runs as root can run jobs as other users")
    return AccountPolicy(common=account)


def _of_each_client(given: UidRange | None) -> UidRange:
    for uids in (DEFAULT_UID_RANGE, SMALL_UID_RANGE) if given is None else (given,):
        if are_mapped(uids):
            return uids
    raise ConfigurationError(
        f"--uid-range {given or DEFAULT_UID_RANGE}: the user namespace of this server does not have these user and group ids "
        "(see /proc/self/uid_map and gid_map); name some that it has, or one user for all jobs with --run-as"
    )


def is_run_as_root(run_as: str | None) -> bool:
    """Whether a server that is root runs its jobs as root, by --run-as.

    Raises:
        ConfigurationError: there is no user of the name.
    """
    return run_as is not None and look_up(run_as).is_root


def io_device(options: ServerOptions, output_folder: Path) -> str | None:
    """The disk that IO limits are about, as MAJ:MIN; None where no limit of this server needs one, and there is none.

    Args:
        options: of the server.
        output_folder: its own, or the folder in which that is to be made.

    Raises:
        ConfigurationError: there is none, with those there are.
    """
    if options.io_device is not None:
        return str(devices.resolve_device(options.io_device))
    device = devices.device_under(output_folder)
    if device is None and options.limits.io.limited:
        listing = ", ".join(f"{disk.number} {disk.name}" for disk in devices.list_devices()) or "none"
        raise ConfigurationError(
            f"IO limits need a block device and {options.output_folder} is on none; "
            f"name one with --iodevice-id (there are: {listing})"
        )
    return str(device) if device is not None else None


def limits_of_jobs(options: ServerOptions, enforcement: Enforcement, device: str | None) -> tuple[Finding, ...]:
    """A finding for each controller: the limit that every job has by it, and whether the host enforces that.

    Args:
        options: of the server.
        enforcement: what the host does.
        device: as of `io_device`; None also where a limit needs one and there is none: that is another finding.
    """
    possible = options if device is not None else replace(options, limits=replace(options.limits, io=IoLimits()))
    policy = _policy(possible, Capabilities(enforcement=enforcement, io_device=device))
    defaults = {report.name: report.value for report in default_limits(policy).reports}
    return tuple(of_limits(enforcement, defaults, device, all_required=options.require_limits))


def _policy(options: ServerOptions, capabilities: Capabilities) -> LimitPolicy:
    return LimitPolicy(
        defaults=options.limits,
        ceilings=Ceilings.of(options.limits),
        capabilities=capabilities,
        oom_policy=options.oom_policy,
    )


def require_enforced(jobs: Path | None) -> None:
    """Refuses a cgroup of jobs, of a server that runs or ran, where not every limit is enforced; None: it is not known.

    Raises:
        ConfigurationError: it is such a one.
        CgroupError: the hierarchy can't be read.
    """
    mount = find_cgroup2(read_mounts())
    if jobs is not None and mount is not None:
        _require_all(foresee_controllers(mount.mount_point, jobs.parent))


def _require_all(enforcement: Enforcement) -> None:
    missing = [
        f"{state.controller}: {reason}"
        for state in enforcement.states
        if (reason := enforcement.why_not(state.controller))
    ]
    if missing:
        raise ConfigurationError(f"--require-limits: this host does not enforce every limit ({'; '.join(missing)})")


def _report(terms: LocalTerms, limits: Iterable[Finding]) -> Iterator[str]:
    whom = name_of(terms.accounts)
    yield f"jobs run as {whom} in cgroups under {terms.tree.jobs}; their output is kept in {terms.output_folder}"
    yield from as_report(
        [
            of_accounts(terms.accounts, drops_privileges=terms.drops_privileges),
            *of_small_limits(terms.limits.defaults),
        ]
    )
    yield from (f"  {finding.topic:<6} {finding.sentence}" for finding in limits)
