"""The opening of an audit's files, which their disk may hold up for ever.

It happens in a thread of its own, which the server's end leaves to itself and nothing else: a thread that came back late
would have the lock of the folder, which the next try would wait for in vain.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from jobmaster.audit.file import AuditFile, FileBounds, lock_folder
from jobmaster.audit.names import AUDIT, HANDSHAKES
from jobmaster.errors import ConfigurationError
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

LOCK_SECONDS: Final = 5.0
"""How long a new server waits for the lock of an old one, which a disk may hold."""
RETRY_SECONDS: Final = 1.0
"""Between two tries of a folder that cannot be used."""
UNLOCK_SECONDS: Final = 0.5
"""How long the closing of the lock may take; the kernel does it at the server's end."""


_UNUSABLE: Final = "its folder cannot be used"
_NO_THREAD: Final = "the server's host has no thread left"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFolder:
    """Where an audit is kept.

    Attributes:
        path: of the folder.
        bounds: of its files.
        prepare: makes the folder or looks at the one there is; blocks, and raises ConfigurationError.
        spool: a descriptor of the memory that has what is not in the files yet, for a later server; None: what a server that
            is killed has not written is lost.
    """

    path: Path
    bounds: FileBounds
    prepare: Callable[[], None]
    spool: int | None = None


@dataclass(frozen=True, slots=True)
class AuditFiles:
    """Of each trail its files, which are open."""

    audit: AuditFile
    handshakes: AuditFile


class Opening:
    """The opening of one folder; it is tried again until it is done.

    Attributes:
        failure: why the last try has failed; None where none has, or none has come to an end.
    """

    def __init__(
        self,
        folder: AuditFolder,
        use: Callable[[AuditFiles], None],
        on_failure: Callable[[str], None],
        *,
        says_failures: bool,
    ) -> None:
        """Opens nothing yet.

        Args:
            folder: to be opened.
            use: called with what was opened.
            on_failure: called with why it cannot be opened, in words for a client.
            says_failures: whether the log is told of a failure; else its reader is.
        """
        self.failure: ConfigurationError | None = None
        self._folder = folder
        self._use = use
        self._on_failure = on_failure
        self._says_failures = says_failures
        self._was_tried = trio.Event()
        self._lock: int | None = None
        self._openers = trio.CapacityLimiter(1)
        self._scope = trio.CancelScope(shield=True)

    async def keep_trying(self) -> None:
        """Opens the files, however long that takes; being cancelled does not end it before `finish`'s deadline."""
        with self._scope:
            while True:
                files = await self._try()
                if files is not None:
                    break
                await trio.sleep(RETRY_SECONDS)
            if self.failure is not None:
                logger.warning("the audit in %s is open", self._folder.path)
            self.failure = None
            self._use(files)
        self._was_tried.set()

    async def wait_tried(self) -> None:
        """Returns when the files are open, or cannot be: `failure` then says why."""
        await self._was_tried.wait()

    def finish(self, deadline: float) -> None:
        """Lets `keep_trying` go on until a deadline of Trio's clock."""
        self._scope.deadline = deadline

    async def unlock(self) -> None:
        """Gives the folder up, whose files are closed."""
        lock, self._lock = self._lock, None
        if lock is not None:
            await run_in_thread(trio.CapacityLimiter(1), os.close, lock, abandon=True)

    async def _try(self) -> AuditFiles | None:
        until = trio.current_time() + LOCK_SECONDS
        try:
            while (files := await run_in_thread(self._openers, self._open, abandon=True)) is None:
                if trio.current_time() >= until:
                    raise _taken(self._folder.path)
                await trio.sleep(0.05)  # flock(2) tells by no event
        except (ConfigurationError, NoThread) as error:
            if self.failure is None and self._says_failures:
                logger.error("the audit is not open, and nothing is started: %s", error)
            self.failure = ConfigurationError(str(error))
            self._on_failure(_NO_THREAD if isinstance(error, NoThread) else _UNUSABLE)
            self._was_tried.set()
            return None
        return files

    def _open(self) -> AuditFiles | None:
        """The files; None where another server has the folder. Blocks."""
        self._folder.prepare()
        path = self._folder.path
        if self._lock is None:
            try:
                self._lock = lock_folder(path)
            except OSError as error:
                raise ConfigurationError(f"the audit folder {path} cannot be used: {error.strerror}") from error
        if self._lock is None:
            return None
        with ExitStack() as closing:
            files = []
            for trail in (AUDIT, HANDSHAKES):
                files.append(AuditFile.open(path, trail, self._folder.bounds))
                closing.callback(files[-1].close)
            closing.pop_all()
        return AuditFiles(*files)


def _taken(folder: Path) -> ConfigurationError:
    return ConfigurationError(f"another jobmaster server has the audit folder {folder}; give this one its own")
