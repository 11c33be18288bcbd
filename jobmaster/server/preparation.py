"""Gets this host ready for jobs, or says why it cannot be: folders, account, cgroups, limits.

Everything here happens once, before the server is ready. What a job then needs is in `LocalTerms`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from jobmaster.errors import ConfigurationError
from jobmaster.host.account import Account, look_up, own_account
from jobmaster.host.cgroup import devices
from jobmaster.host.cgroup.controllers import Enforcement, foresee_controllers
from jobmaster.host.cgroup.limits import Controller, IoLimits, Limits
from jobmaster.host.cgroup.mounts import find_cgroup2, read_mounts
from jobmaster.host.cgroup.startup import open_cgroups
from jobmaster.host.uid_range import DEFAULT_UID_RANGE, SMALL_UID_RANGE, UidRange
from jobmaster.host.user_ids import are_mapped
from jobmaster.run.accounts import AccountPolicy
from jobmaster.run.client_terms import NO_TOTAL
from jobmaster.run.limits import Capabilities, Ceilings, LimitPolicy, default_limits, policy_of_client
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


def prepare(options: ServerOptions, *, open_files: int, needs_all_users: bool = True) -> Prepared:
    """Gets the host ready.

    Args:
        options: of the server.
        open_files: soft RLIMIT_NOFILE of the jobs.
        needs_all_users: as of `accounts_of_jobs`.

    Raises:
        ConfigurationError: an option is wrong, or the host cannot do what was asked; says the remedy.
        CgroupError: the cgroup file system refused something.
    """
    accounts = accounts_of_jobs(options, needs_all_users=needs_all_users)
    prepare_folder("output", options.output_folder)
    work_folder, why_none = prepare_place(options)
    device = io_device(options, options.output_folder)
    opened = open_cgroups(options.cgroup_root)
    tree, enforcement = opened.tree, opened.enforcement
    if options.require_limits:
        _require_all(enforcement)
    policy = _policy(
        options,
        Capabilities(
            enforcement=enforcement,
            io_device=device,
            no_io_weights_because=opened.no_io_weights_because,
        ),
    )
    terms = LocalTerms(
        tree=tree,
        limits=policy,
        limits_of_clients=limits_of_clients(options, policy),
        output_folder=options.output_folder,
        output_max=options.output_max,
        accounts=accounts,
        drops_privileges=os.geteuid() == 0,
        open_files=open_files,
        work_folder=work_folder,
        work_free=options.work_free,
    )
    tree.totals.take_up(totals_of_clients(options))
    why_not = tuple((str(state.controller), enforcement.why_not(state.controller)) for state in enforcement.states)
    report = (
        *_report(terms, limits_of_jobs(options, enforcement, device)),
        *(f"warning: {each}" for each in unenforced_totals(options, enforcement)),
        *why_none,
    )
    return Prepared(terms=terms, enforcement=why_not, report=report)


def prepare_output_folder(options: ServerOptions) -> None:
    """Makes the output folder, if there is a user to run jobs as; nothing else is made where another server has it.

    Raises:
        ConfigurationError: as `prepare`.
    """
    accounts_of_jobs(options, needs_all_users=False)
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


def accounts_of_jobs(options: ServerOptions, *, needs_all_users: bool = True) -> AccountPolicy:
    """As whom jobs run. Blocks as long as the host's directory of users does.

    Args:
        options: of the server.
        needs_all_users: a client's user that is not there is an error; else it is looked for when a job of that client
            starts, as in a server that has jobs of other clients, which it must not cost their lives.

    Raises:
        ConfigurationError: there is none of the name, or this server, which is not root, is another; or the range is not there.
    """
    common = _common_account(options.run_as, options.uid_range)
    users = {name: terms.run_as for name, terms in options.terms.items() if terms.run_as is not None}
    return AccountPolicy(common=common, of_clients=accounts_of_clients(users, needs_all=needs_all_users))


def accounts_of_clients(users: Mapping[str, str], *, needs_all: bool = True) -> dict[str, Account | str]:
    """The accounts of users that are named for single clients. Blocks likewise.

    Args:
        users: by the clients' names.
        needs_all: one that is not there is an error; else its name stands for it.

    Raises:
        ConfigurationError: one is not there, or this server, which is not root, is another.
    """
    own = None if os.geteuid() == 0 else own_account()
    found: dict[str, Account | str] = {}
    for client, user in users.items():
        key = f"clients.{client}.run_as"
        try:
            account = look_up(user, key)
        except ConfigurationError:
            if needs_all:
                raise
            found[client] = user
            continue
        if own is not None and account != own:
            raise ConfigurationError(f"{key} {user}: only a server that runs as root can run jobs as another user")
        found[client] = account
    return found


def _common_account(run_as: str | None, uids: UidRange | None) -> Account | UidRange:
    if os.geteuid() == 0:
        return _of_each_client(uids) if run_as is None else look_up(run_as)
    account = own_account()
    if run_as is not None and look_up(run_as) != account:
        raise ConfigurationError(f"--run-as {run_as}: only a server that runs as root can run jobs as another user")
    if uids is not None:
        raise ConfigurationError(f"--uid-range {uids}: only a server that runs as root can run jobs as other users")
    return account


def _of_each_client(given: UidRange | None) -> UidRange:
    for uids in (DEFAULT_UID_RANGE, SMALL_UID_RANGE) if given is None else (given,):
        if are_mapped(uids):
            return uids
    raise ConfigurationError(
        f"--uid-range {given or DEFAULT_UID_RANGE}: the user namespace of this server does not have these user and group ids "
        "(see /proc/self/uid_map and gid_map); name some that it has, or one user for all jobs with --run-as"
    )


def is_run_as_root(options: ServerOptions) -> bool:
    """Whether a server that is root runs any jobs as root.

    Raises:
        ConfigurationError: there is no user of a name.
    """
    of_clients = ((f"clients.{name}.run_as", terms.run_as) for name, terms in options.terms.items())
    named = ((key, user) for key, user in (("--run-as", options.run_as), *of_clients) if user is not None)
    return any(look_up(user, key).is_root for key, user in named)


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
    if device is None and options.needs_disk:
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


def limits_of_clients(options: ServerOptions, policy: LimitPolicy) -> dict[str, LimitPolicy]:
    """What the limits of a job are decided by for clients that have ceilings of their own; `policy` is that for all."""
    return {name: policy_of_client(policy, terms.ceilings) for name, terms in options.terms.items() if terms.ceilings}


def totals_of_clients(options: ServerOptions) -> dict[str, Limits]:
    """What the jobs of a client may have together, by the clients' names."""
    return {name: terms.total for name, terms in options.terms.items() if terms.total != NO_TOTAL}


def unenforced_totals(options: ServerOptions, enforcement: Enforcement) -> list[str]:
    """What of that this host does not enforce, in words."""
    named = ((Controller.CPU, "cpu_max"), (Controller.MEMORY, "memory_max"), (Controller.PIDS, "pids_max"))
    return [
        f"clients.{client}.total.{name} is NOT ENFORCED: {reason}"
        for client, limits in totals_of_clients(options).items()
        for controller, name in named
        if getattr(limits, name) is not None and (reason := enforcement.why_not(controller))
    ]


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
