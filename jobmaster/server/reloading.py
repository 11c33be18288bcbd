"""Reading the configuration at a server's start, and again at SIGHUP.

Theory of operation
-------------------
All that may block or fail happens in one call of a worker thread: the file is read and judged, and the certificates are. Then
what is new takes its place at once, without a checkpoint, so that there is never half of it: a thread that cannot be had, comes
too late, or finds a mistake leaves everything as it was, and the log says why.

What is in force is kept for the next server afterwards. Until that is done, or where the disk does not take it, the next one would
have an older one where the file is broken, too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn, TypeVar

import trio

from jobmaster.certs.contexts import ServerCredentials, server_credentials
from jobmaster.certs.folder import certificate_folder
from jobmaster.errors import ConfigurationError
from jobmaster.host.account import Account
from jobmaster.run.launcher import Launcher
from jobmaster.server.checking import new_users, require_address, same_address, unusable
from jobmaster.server.config_file import keep_text
from jobmaster.server.configuration import (
    Change,
    Configuration,
    clients_changed,
    config_path,
    differences,
    followed_up,
    kept_form,
    load,
    load_kept,
    taken_up,
    terms_changed,
)
from jobmaster.server.log import set_verbose
from jobmaster.server.options import CommandLine, ServerOptions
from jobmaster.server.preparation import accounts_of_clients, io_device
from jobmaster.server.succession import STATE_LOCK
from jobmaster.server.toml_text import printable
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

READ_SECONDS: Final = 10.0
"""How long the disks of the file and of the certificates, and the host's directory of users, may take."""
KEEP_SECONDS: Final = 10.0
"""How long the disk of the state folder may take for what is kept."""
READERS: Final = trio.CapacityLimiter(1)
"""The thread that reads; one that is left keeps others from beginning."""
KEEPERS: Final = trio.CapacityLimiter(1)
"""The thread that writes what is kept, so that nothing older is written after something newer."""


# --- at the start -----------------------------------------------------------------------------------------------------


async def read_configuration(command: CommandLine, launcher: Launcher) -> Configuration:
    """What this server is to run with. One that follows another has what was in force where the file is broken.

    Raises:
        ConfigurationError: the file cannot be used, and nothing was in force.
        NoThread: there is none.
    """
    before = await _before(command, launcher)
    try:
        change = await _in_time(partial(_follow_up, command, before))
    except (ConfigurationError, NoThread) as error:
        if before is None:
            raise
        logger.error("%s; this server goes on with what was in force before", error)
        change = Change(configuration=before, declined=())
    for each in change.declined:
        logger.warning("configuration: %s", each)
    set_verbose(verbose=change.configuration.options.verbose)
    return change.configuration


async def _before(command: CommandLine, launcher: Launcher) -> Configuration | None:
    """What was in force in the server before; None for a first one, and where that is not known."""
    folder = launcher.inherited.locks.get(STATE_LOCK)
    if folder is None or not launcher.inherited.predecessors:
        return None
    try:
        return await _in_time(partial(load_kept, command, folder))
    except (ConfigurationError, NoThread) as error:
        logger.error("what was in force in the server before is not known: %s", error)
        return None


def _follow_up(command: CommandLine, before: Configuration | None) -> Change:
    after = load(command, before)
    if before is None:
        return Change(configuration=after, declined=())
    keeps_address = not _can_listen(after.options, before.options)
    change = followed_up(before, after, keeps_address=keeps_address)
    _require_usable(change.configuration, before)
    return change


def _can_listen(options: ServerOptions, before: ServerOptions) -> bool:
    if same_address(options, before):
        return True
    try:
        require_address(options.host, options.port, may_be_in_use=False)
    except ConfigurationError as error:
        logger.error("%s", error)
        return False
    return True


def _require_usable(configuration: Configuration, before: Configuration) -> None:
    if problems := unusable(configuration.options, before.options):
        raise ConfigurationError(f"configuration {printable(configuration.file)}: {'; '.join(problems)}")


async def _in_time(function: Callable[[], T]) -> T:
    """Calls a function in the thread that reads.

    Raises:
        ConfigurationError: it takes too long, or a disk fails; or the function's own.
        NoThread: there is none.
    """
    try:
        with trio.move_on_after(READ_SECONDS):
            return await run_in_thread(READERS, function, abandon=True)
    except OSError as error:
        raise ConfigurationError(f"the configuration cannot be read: {error.strerror}") from error
    raise ConfigurationError(f"the configuration was not read within {READ_SECONDS:g} s: does its disk answer?")


# --- while it runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fresh:
    """What was read, and is good; the accounts are those of clients for whom another user is named."""

    change: Change
    credentials: ServerCredentials
    accounts: Mapping[str, Account | str]


class Reloader:
    """Reads the configuration when it is asked to.

    Args:
        command: the command line; None for a server that has no file, where only the certificates are read again.
        configuration: what is in force.
        take_up: puts it in force, at once.
        settle: what takes time of that.
    """

    def __init__(
        self,
        command: CommandLine | None,
        configuration: Configuration,
        *,
        take_up: Callable[[ServerOptions, ServerCredentials, Mapping[str, Account | str]], None],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self.configuration = configuration
        self._command = command
        self._take_up = take_up
        self._settle = settle
        self._asked = trio.Event()

    def ask(self) -> None:
        """Has it read soon; once for all who ask until that begins."""
        self._asked.set()

    async def run(self) -> NoReturn:
        """Reads whenever it is asked to, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            await self.reload()

    async def reload(self) -> None:
        """Reads, and takes up what is good; otherwise the log says why everything stays as it is."""
        try:
            fresh = await _in_time(self._read)
        except (ConfigurationError, NoThread) as error:
            logger.error("%s; what was in force stays in force", error)
            return
        except Exception:
            logger.exception("a bug in reading the configuration; what was in force stays in force")
            return
        before, self.configuration = self.configuration, fresh.change.configuration
        self._take_up(self.configuration.options, fresh.credentials, fresh.accounts)
        if self._command is not None:
            set_verbose(verbose=self.configuration.options.verbose)
        await self._settle()
        await self.keep()
        self._tell(before, fresh.change)

    def _read(self) -> _Fresh:
        """In a thread."""
        before = self.configuration
        after = before if self._command is None else load(self._command, before)
        _require_usable(after, before)
        change = taken_up(before, after)
        options = change.configuration.options
        if options.needs_disk and not before.options.needs_disk:
            io_device(options, options.output_folder)
        return _Fresh(
            change,
            server_credentials(certificate_folder(before.options.certificates)),
            accounts_of_clients(new_users(after.options, before.options)),
        )

    def _tell(self, before: Configuration, change: Change) -> None:
        after = change.configuration
        changes = [text for _, text in differences(after.options, before.options)]
        clients = (
            clients_changed(before.options.policy, after.options.policy),
            terms_changed(before.options, after.options),
        )
        if any(clients):
            changes.append(f"clients: {'; '.join(filter(None, clients))}")
        if not after.options.policy.identities:
            changes.append("clients: nobody may connect")
        file = "none" if after.file is None else printable(after.file)
        logger.warning("read again: certificates, and configuration %s: %s", file, "; ".join(changes) or "no change")
        for each in change.declined:
            logger.warning("configuration: %s", each)

    async def keep(self) -> None:
        """Keeps what is in force for the next server; the log says where that fails."""
        if self._command is None:
            return
        folder = self.configuration.options.output_folder
        why = f"its disk has not answered within {KEEP_SECONDS:g} s"
        try:
            with trio.move_on_after(KEEP_SECONDS):
                await run_in_thread(KEEPERS, keep_text, folder, kept_form(self.configuration), abandon=True)
                return
        except OSError as error:
            why = str(error.strerror)
        except NoThread as error:
            why = str(error)
        logger.error("what is in force cannot be kept in %s for a next server: %s", folder, why)


def described(command: CommandLine | None, configuration: Configuration) -> str | None:
    """A line on what the server runs with; None where there is no file, and nothing to say."""
    if command is None or configuration.file is None:
        return None
    clients = len(configuration.options.policy.identities)
    return f"configuration of {printable(config_path(command))}; {clients} clients may connect"
