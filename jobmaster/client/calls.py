"""Calls that survive a lost connection and a server that is replaced, as far as repeating them is safe."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, TypeVar

import trio
from google.protobuf.message import Message

from jobmaster.client.patience import Patience
from jobmaster.errors import AuditUnavailable, JournalUnavailable, StartsRefused, TransportError
from jobmaster.grpc.channel import CallChannel, CallStream
from jobmaster.grpc.client import CertificateNotAccepted
from jobmaster.grpc.purerpc_adapter import Client, RpcFailedError, Status, StatusCode, raise_status

SERVICE: Final = "jobmaster.jobs.v1.JobService"
_NOT_SERVED: Final = (JournalUnavailable, AuditUnavailable)
"""What a server says that was asked in vain, after it has waited for a disk: for longer than `SERVED_SECONDS`, perhaps."""

_Answer = TypeVar("_Answer", bound=Message)

OnTrouble = Callable[[TransportError | RpcFailedError], None]
"""Called with why nothing comes, where that goes on for TOLD_AFTER: once, until a server has answered."""


class Trouble:
    """Tells of it once, until it is over."""

    def __init__(self, on_trouble: OnTrouble | None) -> None:
        self._on_trouble = on_trouble
        self._is_told = False

    def tell(self, error: TransportError | RpcFailedError) -> None:
        """This is why nothing comes."""
        if self._on_trouble is not None and not self._is_told:
            self._is_told = True
            self._on_trouble(error)

    def over(self) -> None:
        """A server has answered."""
        self._is_told = False


class Calls:
    """The calls of one client. Each is made anew while the server is unavailable or cannot be reached."""

    def __init__(self, channel: CallChannel, trouble: Trouble) -> None:
        self._client = Client(SERVICE, channel)
        self._was_served = False
        self._trouble = trouble

    async def unary(
        self,
        method: str,
        request: Message,
        answer: type[_Answer],
        seconds: float,
        *,
        lasts: bool = False,
        removed: _Answer | None = None,
    ) -> _Answer:
        """Makes a call that may be repeated, for `seconds` in vain at most.

        Args:
            method: its name.
            request: what is asked.
            answer: the type of what is answered.
            seconds: how long it may be repeated in vain.
            lasts: whether it is answered when a job has ended, so that one that was open for long was not in vain.
            removed: of a call that removes what it names: the answer where a repeated one does not find that any more,
                since an earlier one may have removed it before it broke.

        Raises:
            RpcFailedError: the server refused; UNAVAILABLE, which may pass, only after that time.
            TransportError: no connection was to be had in that time.
        """
        patience = Patience(seconds)
        is_repeated = False
        while True:
            try:
                return await self._once(method, request, answer, patience)
            except (TransportError, RpcFailedError) as error:
                if removed is not None and is_repeated and _is_not_found(error):
                    return removed
                pause = self.pause_after(error, patience, lasts=lasts)
                if pause is None:
                    raise
            is_repeated = True
            await trio.sleep(pause)

    async def _once(self, method: str, request: Message, answer: type[_Answer], patience: Patience) -> _Answer:
        call = await self.open(method, type(request), answer, patience)
        await call.send_message(request)
        await call.close()
        message = await call.receive_message()
        if message is not None and await call.receive_message() is not None:
            call.reset()
            raise RpcFailedError(Status(StatusCode.INTERNAL, f"the server sent more than one answer to {method}"))
        raise_status(call.end_status)
        if message is None:
            raise RpcFailedError(Status(StatusCode.INTERNAL, f"the server sent no answer to {method}"))
        assert isinstance(message, answer)  # noqa: S101  # for the type checker
        self.served()
        return message

    async def open(self, method: str, request: type[Message], answer: type[Message], patience: Patience) -> CallStream:
        """Opens a call, whose request is still to be sent."""
        call: CallStream = await self._client.rpc(method, request, answer)
        patience.call_begins(trio.current_time())
        return call

    def served(self) -> None:
        """A server has answered: it takes this client."""
        self._was_served = True
        self._trouble.over()

    def pause_after(
        self, error: TransportError | RpcFailedError, patience: Patience, *, lasts: bool = True
    ) -> float | None:
        """Seconds until a call may be made again; None where it is not to be. `lasts` as of `unary`.

        A server that took this client before is asked again where it seems to refuse it: one that is about to be replaced
        may refuse anything.
        """
        match error:
            case RpcFailedError():
                may_pass = error.status.status_code is StatusCode.UNAVAILABLE and not _is_refused_for_long(error)
            case CertificateNotAccepted():
                may_pass = self._was_served
            case _:
                may_pass = True
        if not may_pass:
            return None
        was_in_vain = not lasts or (isinstance(error, RpcFailedError) and _is_not_served(error))
        now = trio.current_time()
        pause = patience.next_pause(now, jitter(), was_in_vain=was_in_vain)
        if pause is not None and patience.is_to_be_told(now):
            self._trouble.tell(error)
        return pause


def _is_not_found(error: TransportError | RpcFailedError) -> bool:
    return isinstance(error, RpcFailedError) and error.status.status_code is StatusCode.NOT_FOUND


def _is_not_served(error: RpcFailedError) -> bool:
    from jobmaster.grpc.status_details import reason_in, reason_of  # here, because few calls fail

    return reason_in(error.status) in {reason_of(kind) for kind in _NOT_SERVED}


def _is_refused_for_long(error: RpcFailedError) -> bool:
    """Whether an admin has the server take no jobs: whoever asks is to know why at once."""
    from jobmaster.grpc.status_details import reason_in, reason_of  # as above

    return reason_in(error.status) == reason_of(StartsRefused)


def jitter() -> float:
    """By how much a pause is to be longer or shorter."""
    return random.uniform(0.5, 1.5)  # noqa: S311  # no secret


class Stream:
    """The messages of a streaming method, over as many calls as it takes; has one reader."""

    def __init__(
        self,
        calls: Calls,
        method: str,
        request: type[Message],
        answer: type[Message],
        seconds: float,
        *,
        sends_more: bool = False,
    ) -> None:
        """Opens no call yet.

        Args:
            calls: those of the client.
            method: its name.
            request: the type of the request.
            answer: the type of the messages.
            seconds: how long it may be tried in vain.
            sends_more: the first request is not the only one of a call: `call` takes the others.
        """
        self._sends_more = sends_more
        self._calls = calls
        self._method = method
        self._request = request
        self._answer = answer
        self._call: CallStream | None = None
        self.patience = Patience(seconds)

    async def receive(self, request: Callable[[], Message]) -> Message | None:
        """The next message of the call that is open, or of a new one; None where the server has sent all.

        Args:
            request: makes the request of a new call, when that is open.

        Raises:
            RpcFailedError, TransportError: as `Calls.unary`.
        """
        while True:
            try:
                return await self._receive(request)
            except (TransportError, RpcFailedError) as error:
                self.abandon()
                pause = self._calls.pause_after(error, self.patience)
                if pause is None:
                    raise
            except trio.Cancelled:
                self.abandon()  # a wait that was given up is no call that broke
                raise
            await trio.sleep(pause)

    async def _receive(self, request: Callable[[], Message]) -> Message | None:
        if self._call is None:
            self._call = await self._calls.open(self._method, self._request, self._answer, self.patience)
            await self._call.send_message(request())
            if not self._sends_more:
                await self._call.close()
        message = await self._call.receive_message()
        if message is None:
            raise_status(self._call.end_status)
        self._calls.served()
        return message

    @property
    def call(self) -> CallStream | None:
        """The call that is open, if any."""
        return self._call

    def abandon(self) -> None:
        """Ends the call that is open, if any. Does not wait."""
        if self._call is not None:
            self._call.reset()
            self._call = None
