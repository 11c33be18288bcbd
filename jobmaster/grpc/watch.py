"""Who is told of every call, from its beginning to its outcome: the audit, without this package knowing of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from jobmaster.grpc.purerpc_adapter import Status

Admission = Callable[[], Awaitable[None]]
"""Awaited before a unary method's handler is called, or by that handler; raises where the call is refused. It may be awaited
again."""


class CallWatch(Protocol):
    """One call. Nothing of it may wait, and only `on_request` may raise."""

    def on_request(self, message: Message) -> Admission | None:
        """A request message is here, and its handler is about to get it; of a unary call perhaps not at once.

        Raises whatever the call is refused with.
        """

    def on_answer(self, message: Message) -> None:
        """A unary call's handler has answered."""

    def on_end(self, status: Status) -> None:
        """The call has ended so; told once."""


class ConnectionWatch(Protocol):
    """The calls of one connection."""

    def open(self, method: str | None) -> CallWatch:
        """A call of a method, `service/name`, which there may not be; None where the request names none."""

    def refused(self, method: str | None, outcome: str, why: str) -> None:
        """A request that did not become a call, and how its client sees that."""
