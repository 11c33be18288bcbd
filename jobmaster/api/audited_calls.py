"""The calls of a connection, as the audit has them.

A call has one entry, at its end. One that changes something or lasts has another at its beginning; that of a Start is
written before its command is executed, and where it cannot be, the Start is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.api.subjects import BEGUN, START, command_of, job_of, secret_values_of
from jobmaster.audit.entry import Begun, Call, Caller, Command, masked, shortened

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from jobmaster.audit.file import Line
    from jobmaster.audit.trail import Trail
    from jobmaster.grpc.purerpc_adapter import Status
    from jobmaster.grpc.watch import Admission

_OK: Final = "OK"
"""The name of the status that nearly all calls end with."""


class AuditedConnection:
    """The `ConnectionWatch` of one connection."""

    def __init__(self, trail: Trail, caller: Caller) -> None:
        self._trail = trail
        self._caller = caller

    def open(self, method: str | None) -> AuditedCall:
        """A call has come."""
        return AuditedCall(self._trail, self._caller, method)

    def refused(self, method: str | None, outcome: str, why: str) -> None:
        """A request did not become a call."""
        entry = Call(
            at=datetime.now(UTC), caller=self._caller, method=method, outcome=outcome, why=shortened(why), seconds=0.0
        )
        self._trail.put(entry)


class AuditedCall:
    """The `CallWatch` of one call."""

    __slots__ = ("_begun", "_caller", "_command", "_job", "_method", "_opened", "_secrets", "_trail")

    def __init__(self, trail: Trail, caller: Caller, method: str | None) -> None:
        self._trail = trail
        self._caller = caller
        self._method = method
        self._opened = trio.current_time()
        self._job: str | None = None
        self._command: Command | None = None
        self._secrets: frozenset[bytes] = frozenset()
        self._begun: Line | None = None

    def on_request(self, message: Message) -> Admission | None:
        """The request is here; of a stream of requests the first one counts."""
        if self._begun is not None:
            return None
        self._job = job_of(message)
        if (words := command_of(message)) is not None:
            self._secrets = secret_values_of(message)
            self._command = Command.of(words)
        if self._method not in BEGUN:
            return None
        begun = Begun(
            at=datetime.now(UTC), caller=self._caller, method=self._method, job=self._job, command=self._command
        )
        if self._method == START:
            self._begun = self._trail.admit(begun)
            return partial(self._trail.wait_written, self._begun)
        self._begun = self._trail.put(begun)
        return None

    def on_answer(self, message: Message) -> None:
        """A Start's answer names its job."""
        if self._method == START:
            self._job = job_of(message)

    def on_end(self, status: Status) -> None:
        """The call has ended."""
        entry = Call(
            at=datetime.now(UTC),
            caller=self._caller,
            method=self._method,
            job=self._job,
            command=self._command,
            outcome=_OK if status.int_value == 0 else status.status_code.name,
            why=shortened(masked(status.status_message, self._secrets)) if status.status_message else "",
            seconds=trio.current_time() - self._opened,
        )
        self._trail.put(entry, begun=self._begun)
