"""The server's side of HTTP/2 without a wire or an event loop, with a handler that answers at once."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from jobmaster.http2.errors import ProtocolViolation
from jobmaster.http2.events import DataReceived, Event, HeadersReceived, StreamReset
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.header_blocks import Field, encode_block
from jobmaster.http2.protocol import Configuration, Http2Protocol

RESPONSE: Final[list[Field]] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS: Final[list[Field]] = [(b"grpc-status", b"0")]
WINDOW: Final = 70_000


class Answer(IntEnum):
    """What the handler does with a request."""

    NOTHING = 0
    HEADERS = 1
    DATA = 2
    TRAILERS = 3
    TRAILERS_AND_RESET = 4
    RESET = 5


class AnsweringServer:
    """Takes a client's bytes; `now` is set by its owner."""

    def __init__(self) -> None:
        self.sent = bytearray()
        side = Configuration(
            is_client=False, stream_window=WINDOW, connection_window=2 * WINDOW, max_frame_size=16 * 1024, parse=tuple
        )
        self.http2: Http2Protocol[tuple[Field, ...]] = Http2Protocol(side, self.sent.extend)
        self.http2.start()
        self.now = 0.0
        self.requests: list[int] = []
        """The calls that have been opened, in their order."""
        self.calls: dict[int, bool] = {}
        """The calls that can still be answered: has the response started?"""

    def receive(self, data: bytes) -> list[Event]:
        """The events of `data`; raises ProtocolViolation."""
        events = []
        for event in self.http2.receive(data, self.now):
            events.append(event)
            match event:
                case HeadersReceived(stream_id) if stream_id not in self.requests:
                    self.requests.append(stream_id)
                    self.calls[stream_id] = False
                case StreamReset(stream_id):
                    self.calls.pop(stream_id, None)
                case DataReceived(stream_id, _, length):
                    self.http2.acknowledge(stream_id, length)
                case _:
                    pass
        return events

    def receive_and_answer(self, data: bytes, answer: Answer) -> bool:
        """As `receive`; False where the client's bytes ended the connection in the one way they may."""
        try:
            events = self.receive(data)
        except ProtocolViolation:
            return False
        for event in events:
            if isinstance(event, HeadersReceived):
                self.answer(event.stream_id, answer)
        return True

    def answer(self, stream_id: int, answer: Answer) -> None:
        """Does that with a call, where it has been neither ended nor reset and the answer is at its turn."""
        started = self.calls.get(stream_id)
        match answer:
            case Answer.HEADERS if started is False:
                self.http2.send_headers(stream_id, encode_block(RESPONSE), end_stream=False)
                self.calls[stream_id] = True
            case Answer.DATA if started:
                size = min(100, self.http2.send_window(stream_id))
                if size:
                    self.http2.send_data(stream_id, [bytes(size)], 0, size)
            case Answer.TRAILERS | Answer.TRAILERS_AND_RESET if started is not None:
                fields = TRAILERS if started else RESPONSE + TRAILERS
                self.http2.send_headers(stream_id, encode_block(fields), end_stream=True)
                if answer is Answer.TRAILERS_AND_RESET:
                    self.http2.reset(stream_id, ErrorCode.NO_ERROR)
                del self.calls[stream_id]
            case Answer.RESET if started is not None:
                self.http2.reset(stream_id, ErrorCode.REFUSED_STREAM)
                del self.calls[stream_id]
            case _:
                pass
