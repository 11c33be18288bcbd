"""h2 behind the frame guard, as the server's connection uses them, with a handler that answers at once."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from jobmaster.transport.guard import FrameGuard, GuardViolation

HEADER_LIST: Final = 16 * 1024
RESPONSE: Final = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS: Final = [("grpc-status", "0")]


class Answer(IntEnum):
    """What the handler does with a request."""

    NOTHING = 0
    HEADERS = 1
    DATA = 2
    TRAILERS = 3
    TRAILERS_AND_RESET = 4
    RESET = 5


class GuardedServer:
    """Takes a client's bytes; `now` is set by its owner."""

    def __init__(self, *, streams: int = 100) -> None:
        self.h2: Any = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        values = {SettingCodes.MAX_CONCURRENT_STREAMS: streams, SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_LIST}
        self.h2.local_settings = Settings(client=False, initial_values=values)
        self.h2.decoder.max_header_list_size = HEADER_LIST
        self.h2.initiate_connection()
        self.guard = FrameGuard(
            is_live=lambda stream_id: stream_id in self.h2.streams,
            highest_stream_id=lambda: int(self.h2.highest_inbound_stream_id),
        )
        self.now = 0.0
        self.requests: list[int] = []
        """The calls that have been opened, in their order."""
        self.calls: dict[int, bool] = {}
        """The calls that can still be answered: has the response started?"""

    def receive(self, data: bytes) -> list[Any]:
        """The events of `data`; raises what the guard and h2 raise."""
        events: list[Any] = []
        for frame in self.guard.receive(data, self.now):
            events += self.h2.receive_data(frame)
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                self.requests.append(event.stream_id)
                self.calls[event.stream_id] = False
            elif isinstance(event, h2.events.StreamReset):
                self.calls.pop(event.stream_id, None)
        return events

    def receive_and_answer(self, data: bytes, answer: Answer) -> bool:
        """As `receive`; False where the client's bytes ended the connection in one of the two ways they may."""
        try:
            events = self.receive(data)
        except (GuardViolation, h2.exceptions.ProtocolError):
            return False
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                self.answer(event.stream_id, answer)
            elif isinstance(event, h2.events.DataReceived):
                self._give_back(event)
        return True

    def answer(self, stream_id: int, answer: Answer) -> None:
        """Does that with a call, where it has been neither ended nor reset and the answer is at its turn."""
        started = self.calls.get(stream_id)
        match answer:
            case Answer.HEADERS if started is False:
                self.h2.send_headers(stream_id, RESPONSE)
                self.calls[stream_id] = True
            case Answer.DATA if started:
                size = min(100, max(0, self.h2.local_flow_control_window(stream_id)))
                self.h2.send_data(stream_id, bytes(size))
                self.guard.data_sent()
            case Answer.TRAILERS | Answer.TRAILERS_AND_RESET if started is not None:
                self.h2.send_headers(stream_id, TRAILERS if started else RESPONSE + TRAILERS, end_stream=True)
                self.guard.stream_finished()
                if answer is Answer.TRAILERS_AND_RESET and not self.h2.streams[stream_id].closed:
                    self.h2.reset_stream(stream_id, ErrorCodes.NO_ERROR)
                del self.calls[stream_id]
            case Answer.RESET if started is not None:
                self.h2.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
                del self.calls[stream_id]
            case _:
                pass

    def _give_back(self, event: Any) -> None:
        if event.flow_controlled_length:
            try:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            except h2.exceptions.ProtocolError:  # the stream is gone
                return
