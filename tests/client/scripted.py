"""A scripted server in the place of a connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never, cast

import purerpc
import trio
from google.protobuf.message import Message

from jobmaster.client import Jobs
from jobmaster.errors import TransportError
from jobmaster.grpc.channel import CallChannel
from jobmaster.grpc.headers import DetailedStatus
from jobmaster.jobs.v1 import jobs_pb2 as pb


@dataclass(frozen=True, slots=True)
class Ends:
    """The server ends the call with this status."""

    code: str
    text: str = ""
    details: bytes = b""


@dataclass(frozen=True, slots=True)
class Quiet:
    """The job writes nothing for an hour, or so long, or until an event."""

    until: trio.Event = field(default_factory=trio.Event)
    seconds: float = 3600


Part = bytes | Message | Ends | Quiet | Exception

Answer = Sequence[Part] | Exception
"""What a call brings; an error is that of the connection, in the place of a call."""

OK = Ends("OK")
UNAVAILABLE = Ends("UNAVAILABLE", "draining")
NOT_FOUND = Ends("NOT_FOUND", "no such job")
LOST = TransportError("the connection was lost")
UNIMPLEMENTED = Ends("UNIMPLEMENTED", "no such method")


@dataclass(slots=True)
class Call:
    """One call of a script: the messages it brings, and then its status or what breaks it.

    Bytes are those of the output from its first one on. FollowOutput brings them from the offset on that it is asked for.
    """

    method: str
    parts: list[Part]
    request: Message | None = None
    requests: list[Message] = field(default_factory=list)
    was_reset: bool = False
    send_window: int = 0
    end_status: Any = None
    _offset: int = 0

    def expect_message_type(self, message_type: type[Message]) -> None:
        """The script knows what it sends."""

    async def send_message(self, message: Message) -> None:
        """Keeps the request."""
        await trio.lowlevel.checkpoint()
        self.request = type(message).FromString(message.SerializeToString())  # as it is now
        self.requests.append(self.request)

    async def close(self) -> None:
        """The request is complete."""
        await trio.lowlevel.checkpoint()

    async def receive_message(self) -> Message | None:
        """The next of the script."""
        await trio.lowlevel.checkpoint()
        match self.parts.pop(0):
            case bytes(output) if isinstance(self.request, pb.FollowOutputRequest):
                start, self._offset = self._offset, self._offset + len(output)
                if (known := max(0, self.request.from_offset - start)) >= len(output):
                    return await self.receive_message()
                return pb.OutputChunk(offset=start + known, data=output[known:])
            case bytes(output):
                return pb.JobOutputResponse(output=output)
            case Message() as message:
                return message
            case Exception() as error:
                raise error
            case Quiet() as quiet:
                try:
                    with trio.move_on_after(quiet.seconds):
                        await quiet.until.wait()
                except trio.Cancelled:
                    self.parts.insert(0, TransportError("the call was abandoned"))  # as by ClientStream
                    raise
                return await self.receive_message()
            case Ends(code, text, details):
                self.end_status = DetailedStatus(purerpc.StatusCode[code], text, details)
                return None
            case unreachable:
                assert_never(unreachable)

    def reset(self) -> None:
        """The caller gives it up."""
        self.was_reset = True


@dataclass(slots=True)
class Script:
    """A channel that answers each call with the next of its scripts; an error there is that of the connection.

    Attributes:
        script: of all calls but those of `waits`.
        waits: of Wait, which may be called beside another method; where there are none, it is in the script too.
        has_parts: whether it has FollowOutput; a server of an earlier version has not, which is in no script.
    """

    script: list[Answer]
    waits: list[Answer] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)
    on_call: dict[str, Callable[[], None]] = field(default_factory=dict)
    has_parts: bool = True
    _host: str = "scripted"
    _port: int = 1

    @property
    def _grpc_socket(self) -> Script:
        return self

    async def start_request(self, _scheme: str, _service: str, method: str, *_: Any, **__: Any) -> Call:
        """Opens a call."""
        await trio.lowlevel.checkpoint()
        if method == "FollowOutput" and not self.has_parts:
            return Call(method, [UNIMPLEMENTED])
        self.attempts.append(trio.current_time())
        match (self.waits if method == "Wait" and self.waits else self.script).pop(0):
            case Exception() as error:
                raise error
            case _ as parts:
                self.calls.append(Call(method, list(parts)))
                self.on_call.get(method, lambda: None)()
                return self.calls[-1]

    def jobs(self, **options: Any) -> Jobs:
        """A client of this server."""
        return Jobs(cast(CallChannel, self), **options)
