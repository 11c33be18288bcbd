"""All that is looked at, in the order in which it is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from jobmaster.certs.contexts import server_context
from jobmaster.certs.folder import CLIENT_AUTHORITY, SERVER, SERVER_AUTHORITY, certificate_folder, certificate_path
from jobmaster.certs.inspection import inspect, names_in
from jobmaster.doctor.cgroups import look_at_cgroups, of_cgroups
from jobmaster.doctor.clock import look_at_clock, of_clock
from jobmaster.doctor.configuration import look_at_address, of_address, options_to_examine
from jobmaster.doctor.kernel import look_at_kernel, of_kernel
from jobmaster.doctor.locks import holder_of_lock, of_holder
from jobmaster.doctor.resources import look_at_resources, of_open_files, of_processes
from jobmaster.doctor.storage import disk_of_folder, look_at_storage, of_storage, of_work_place, of_work_room
from jobmaster.doctor.systemd import look_at_systemd, of_systemd
from jobmaster.doctor.users import look_at_takers, of_takers
from jobmaster.errors import ConfigurationError, JobmasterError
from jobmaster.host.cgroup import devices
from jobmaster.host.cgroup.mounts import find_cgroup2, read_mounts
from jobmaster.host.uid_range import UidRange
from jobmaster.run.local import DESCRIPTORS_OF_JOB
from jobmaster.server.earlier_cgroup import NAME, jobs_named_in
from jobmaster.server.findings import Finding, Verdict
from jobmaster.server.judgements import of_absent_certificate, of_accounts, of_certificate, of_small_limits
from jobmaster.server.listener import DEFAULT_LIMITS
from jobmaster.server.options import CommandLine, ServerOptions
from jobmaster.server.preparation import accounts_of_jobs, io_device, limits_of_jobs, nearest_of
from jobmaster.server.work_place import fault_of_place, place_of


def examine_all(command: CommandLine) -> tuple[Finding, ...]:
    """The configuration file of a server with this command line, and this host for a server that runs with it.

    Raises:
        ConfigurationError: the command line says too little.
    """
    options, finding = options_to_examine(command)
    return finding, *examine(options)


def examine(options: ServerOptions) -> tuple[Finding, ...]:
    """What this host can do for a server with these options, started by this user from here; nothing is changed."""
    subjects: dict[str, Callable[[], Iterable[Finding]]] = {
        "kernel": _kernel,
        "cgroup": partial(_cgroups, options),
        "small limits": lambda: of_small_limits(options.limits),
        "systemd": lambda: [of_systemd(look_at_systemd())],
        "io device": partial(_io_device, options),
        "output folder": lambda: of_storage(look_at_storage("output", options.output_folder), options.output_free),
        "work folder": partial(_work_folder, options),
        "certificate": partial(_certificates, options),
        "clock": lambda: [of_clock(look_at_clock())],
        "limits": partial(_resources, options),
        "users": partial(_users, options),
        "server": partial(_server, options.output_folder),
        "address": partial(_address, options),
    }
    return tuple(finding for topic, look in subjects.items() for finding in _all_of(topic, look))


def _all_of(topic: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What comes of a look; what cannot be looked at is a finding as well."""
    try:
        return list(look())
    except (JobmasterError, OSError) as error:
        said = str(error) if isinstance(error, JobmasterError) else f"cannot be looked at: {error}"
        return [Finding(topic=topic, verdict=Verdict.MISSING, text=said)]


def _kernel() -> Iterator[Finding]:
    mount = find_cgroup2(read_mounts())
    return of_kernel(look_at_kernel(None if mount is None else mount.mount_point))


def _cgroups(options: ServerOptions) -> Iterator[Finding]:
    in_use = _root_in_use(options.output_folder) if options.cgroup_root is None else None
    found = look_at_cgroups(options.cgroup_root, in_use)
    yield from of_cgroups(found, is_in_use=in_use is not None)
    try:
        device = io_device(options, nearest_of(options.output_folder))
    except ConfigurationError:  # which is told beside the device
        device = None
    yield from limits_of_jobs(options, found.enforcement, device)


def _root_in_use(folder: Path) -> Path | None:
    """The cgroup root of the server that has this folder, where it lives and this user may know."""
    if _holder(folder) is None:
        return None
    jobs = jobs_named_in(folder / NAME)
    return None if jobs is None else jobs.parent


def _io_device(options: ServerOptions) -> Iterator[Finding]:
    device = io_device(options, nearest_of(options.output_folder))
    if device is not None:
        named = {str(disk.number): disk.name for disk in devices.list_devices()}.get(device)
        text = f"IO limits are about {device}" + (f" ({named})" if named else "")
        yield Finding(topic="io device", verdict=Verdict.OK, text=text)
        return
    there = ", ".join(f"{disk.number} ({disk.name})" for disk in devices.list_devices()) or "none"
    text = f"{options.output_folder} is on no block device, so that IO limits have none to be about"
    yield Finding(
        topic="io device",
        verdict=Verdict.WARNING,
        text=text,
        remedy=f"name one with --iodevice-id (there are: {there})",
    )


def _work_folder(options: ServerOptions) -> Iterator[Finding]:
    place = place_of(options)
    yield of_work_place(place, fault_of_place(options), is_named=options.work_folder is not None)
    yield of_work_room(disk_of_folder(nearest_of(place)), options.work_free)


def _certificates(options: ServerOptions) -> Iterator[Finding]:
    folder, now = certificate_folder(options.certificates), datetime.now(UTC)
    if options.certificates is None and not certificate_path(folder, SERVER).exists():
        yield of_new_certificates(folder, may_be_made=os.access(nearest_of(folder), os.W_OK | os.X_OK))
        return
    names = names_in(folder)
    yield from (
        of_absent_certificate(who, folder) for who in (SERVER, CLIENT_AUTHORITY, SERVER_AUTHORITY) if who not in names
    )
    found = {who: of_certificate(inspect(folder, who, now), now) for who in names}
    yield from found.values()
    if all(who in found and found[who].verdict is not Verdict.MISSING for who in (SERVER, CLIENT_AUTHORITY)):
        server_context(folder)  # what else is wrong, as with the server's key, it says
        yield Finding(topic="certificate", verdict=Verdict.OK, text="the server's key is its certificate's")


def of_new_certificates(folder: Path, *, may_be_made: bool) -> Finding:
    """The default folder of certificates, where it has none."""
    text = f"there are none in {folder}"
    if may_be_made:
        return Finding(topic="certificate", verdict=Verdict.OK, text=f"{text}: the first start makes them")
    remedy = "name a folder with --certs-dir, where this user can read them"
    return Finding(
        topic="certificate", verdict=Verdict.MISSING, text=f"{text}, nor may they be made there", remedy=remedy
    )


def _resources(options: ServerOptions) -> Iterator[Finding]:
    found = look_at_resources()
    yield of_open_files(found, jobs=options.max_jobs, of_job=DESCRIPTORS_OF_JOB, connections=DEFAULT_LIMITS.total)
    yield of_processes(found, jobs=options.max_jobs)


def _users(options: ServerOptions) -> Iterator[Finding]:
    accounts = accounts_of_jobs(options)
    yield of_accounts(accounts, drops_privileges=os.geteuid() == 0)
    if isinstance(accounts.common, UidRange):
        yield of_takers(accounts.common, look_at_takers(accounts.common))
    yield of_server_user(os.geteuid())


def of_server_user(uid: int) -> Finding:
    """What a server of this user can do."""
    if uid == 0:
        return Finding(topic="server's user", verdict=Verdict.OK, text="root")
    text = (
        f"a server that is not root (uid {uid}) runs all jobs as its own user, who can read its keys, journal and audit, and "
        "signal it; it may set no limit that is not delegated to it, which IO limits seldom are, and raise none of its own"
    )
    return Finding(
        topic="server's user", verdict=Verdict.WARNING, text=text, remedy="where jobs are not your own, run it as root"
    )


def _server(folder: Path) -> Iterator[Finding]:
    yield of_holder(folder, _holder(folder))


def _address(options: ServerOptions) -> Iterator[Finding]:
    fault, is_in_use = look_at_address(options.host, options.port)
    has_server = is_in_use and _holder(options.output_folder) is not None
    yield of_address(options.host, options.port, fault, is_in_use=is_in_use, has_server=has_server)


def _holder(folder: Path) -> int | None:
    """As `holder_of_lock`; None where there is no such folder, or this user may not know."""
    try:
        return holder_of_lock(folder)
    except OSError:
        return None
