"""What of a configuration this host has no use for: a user, a device or an address that is not there. And `--check-config`.

All is looked at for which a server would not start: one that follows another would end its jobs so. What has to be told of a
whole host, such as which limits it enforces, is no part of it but where a server runs, or ran, whose cgroups tell it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from jobmaster.certs.contexts import server_context
from jobmaster.certs.folder import SERVER, certificate_folder, certificate_path
from jobmaster.errors import CgroupError, ConfigurationError
from jobmaster.run.client_terms import COMMON_TERMS
from jobmaster.server.client_schema import CLIENTS
from jobmaster.server.configuration import load
from jobmaster.server.earlier_cgroup import NAME, jobs_named_in
from jobmaster.server.log import say_error
from jobmaster.server.preparation import (
    accounts_of_clients,
    accounts_of_jobs,
    check_folder,
    io_device,
    nearest_of,
    require_enforced,
)
from jobmaster.server.schema import BY_KEY, render
from jobmaster.server.work_place import check_named_place

if TYPE_CHECKING:
    from jobmaster.server.options import CommandLine, ServerOptions

UNUSABLE: Final = 2
UNTOLD: Final = 1
_STDOUT: Final = 1
_BESIDE: Final = {"limits.io_device": tuple(key for key in BY_KEY if key.startswith("limits.io_"))}
"""What else a look is about: a limit needs a device."""


def check(command: CommandLine) -> int:
    """Says what would be in force and what of it is unusable; returns the exit status."""
    try:
        configuration = load(command)
    except ConfigurationError as error:
        say_error(f"jobmaster: {error}")
        return UNUSABLE
    problems = unusable(configuration.options)
    for problem in problems:
        say_error(f"jobmaster: {problem}")
    try:
        _write_out(render(configuration.options))
    except OSError as error:
        say_error(f"jobmaster: stdout does not take the configuration: {error.strerror}")
        return UNUSABLE if problems else UNTOLD
    return UNUSABLE if problems else 0


def _write_out(text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(_STDOUT, data) :]


def unusable(options: ServerOptions, before: ServerOptions | None = None) -> list[str]:
    """What this host has no use for, each with the remedy. Blocks.

    Args:
        options: of a server that is to be.
        before: of one that runs, or ran, here; what it has too is not looked at, be it as slow or gone as it may.
    """

    def check_certificates() -> None:
        folder = certificate_folder(options.certificates)
        if options.certificates is not None or certificate_path(folder, SERVER).exists():  # else it would be made
            server_context(folder)

    def check_enforced() -> None:
        if before is not None and options.require_limits:
            require_enforced(jobs_named_in(before.output_folder / NAME))

    checks: dict[str, Callable[[], object]] = {
        "listen": lambda: require_address(options.host, options.port, may_be_in_use=True),
        "jobs.run_as": lambda: accounts_of_jobs(replace(options, terms={})),
        "limits.require": check_enforced,
        "limits.io_device": lambda: io_device(options, nearest_of(options.output_folder)),
        "folders.output": lambda: check_folder("output", options.output_folder),
        "folders.audit": lambda: check_folder("audit", options.audit),
        "folders.certificates": check_certificates,
        "folders.work": lambda: check_named_place(options),
    }
    if before is not None:
        checks = {key: look for key, look in checks.items() if _differs(key, before, options)}
    users = new_users(options, before)
    return [*_failures(checks), *_failures({CLIENTS: lambda: accounts_of_clients(users)})]


def new_users(options: ServerOptions, before: ServerOptions | None = None) -> dict[str, str]:
    """The users of clients for whom another one, or none, was named before; by the clients' names."""
    known = {} if before is None else before.terms
    return {
        name: terms.run_as
        for name, terms in options.terms.items()
        if terms.run_as is not None and terms.run_as != known.get(name, COMMON_TERMS).run_as
    }


def _differs(key: str, before: ServerOptions, options: ServerOptions) -> bool:
    """Whether what is looked at for this key is another one."""
    return any(BY_KEY[each].value_of(before) != BY_KEY[each].value_of(options) for each in (key, *_BESIDE.get(key, ())))


def _failures(checks: dict[str, Callable[[], object]]) -> Iterator[str]:
    for key, look in checks.items():
        try:
            look()
        except (ConfigurationError, CgroupError) as error:
            yield f"{key}: {error}"


def same_address(one: ServerOptions, other: ServerOptions) -> bool:
    """Whether they name one address to listen on, in the same words."""
    return (one.host, one.port) == (other.host, other.port)


def require_address(host: str, port: int, *, may_be_in_use: bool) -> None:
    """Whether a server can listen there. Blocks as long as name servers do.

    Raises:
        ConfigurationError: it is none of this host's, or not for this user; or it is in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            _try_to_bind((family, kind, protocol), address, may_be_in_use=may_be_in_use)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigurationError(f"cannot listen on {host}:{port}: {why}; name an address of this host") from None


def _try_to_bind(kind: tuple[int, int, int], address: Any, *, may_be_in_use: bool) -> None:
    with socket.socket(*kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            if not may_be_in_use or error.errno != errno.EADDRINUSE:
                raise
