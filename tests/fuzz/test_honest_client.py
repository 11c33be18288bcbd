"""An honest client, whatever it does and however the network cuts and delays it, is never hurt by a bound."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.events
from h2.errors import ErrorCodes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.fuzz.answering_server import Answer, AnsweringServer

HEADERS = [(":method", "POST"), (":scheme", "https"), (":path", "/a.B/C"), (":authority", "x"), ("te", "trailers")]


class HonestClient(RuleBasedStateMachine):
    """h2 as the client, a network that delivers what and when it likes, and the server.

    Each side acts on what has reached it, so that resets, windows and trailers cross under way as they do in life.
    A violation, or an error of h2, would end the machine, and with it the test.
    """

    def __init__(self) -> None:
        super().__init__()
        self.client: Any = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.server = AnsweringServer()
        self.to_server = b""
        self.to_client = b""
        self.opened: list[int] = []
        self.unended: set[int] = set()
        self.settings_changed = 0
        self.deliver_to_server(2**20)

    @property
    def open_requests(self) -> list[int]:
        """The calls on which the client may send more."""
        return [stream_id for stream_id in self.unended if stream_id in self.client.streams]

    @property
    def open_calls(self) -> list[int]:
        """The calls that the client does not know to be over."""
        return [stream_id for stream_id in self.opened if self._is_open(stream_id)]

    def _is_open(self, stream_id: int) -> bool:
        stream = self.client.streams.get(stream_id)
        return stream is not None and not stream.closed

    @precondition(lambda self: len(self.opened) < 20)
    @rule(end=st.booleans())
    def open_call(self, end: bool) -> None:
        """Starts a call."""
        stream_id = self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, HEADERS, end_stream=end)
        self.opened.append(stream_id)
        if not end:
            self.unended.add(stream_id)

    @precondition(lambda self: self.open_requests)
    @rule(data=st.data(), size=st.integers(1, 3000), end=st.booleans())
    def send_data(self, data: st.DataObject, size: int, end: bool) -> None:
        """Sends a part of a message, or the last."""
        stream_id = data.draw(st.sampled_from(self.open_requests))
        size = min(size, self.client.local_flow_control_window(stream_id))
        self.client.send_data(stream_id, bytes(size), end_stream=end)
        if end:
            self.unended.discard(stream_id)

    @precondition(lambda self: self.open_requests)
    @rule(data=st.data())
    def end_call_with_an_empty_frame(self, data: st.DataObject) -> None:
        """Ends the request as grpc-go does."""
        stream_id = data.draw(st.sampled_from(self.open_requests))
        self.client.end_stream(stream_id)
        self.unended.discard(stream_id)

    @precondition(lambda self: self.open_calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Resets a call."""
        stream_id = data.draw(st.sampled_from(self.open_calls))
        self.client.reset_stream(stream_id, ErrorCodes.CANCEL)
        self.unended.discard(stream_id)

    @precondition(lambda self: self.open_calls)
    @rule(data=st.data())
    def give_window(self, data: st.DataObject) -> None:
        """Gives window back for a call that may have ended in the meantime, and for the connection."""
        self.client.increment_flow_control_window(100, data.draw(st.sampled_from([None, *self.open_calls])))

    @rule()
    def ping(self) -> None:
        """Probes the bandwidth."""
        self.client.ping(b"12345678")

    @precondition(lambda self: self.settings_changed < 20)
    @rule(window=st.integers(0, 2**20))
    def change_settings(self, window: int) -> None:
        """Adapts its window, as grpc-go does: from 64 KiB to 16 MiB by at least a third each time."""
        self.settings_changed += 1
        self.client.update_settings({4: window})

    @precondition(lambda self: self.server.calls)
    @rule(data=st.data(), answer=st.sampled_from(Answer))
    def answer(self, data: st.DataObject, answer: Answer) -> None:
        """The server's handler does something with a call that has reached it."""
        self.server.answer(data.draw(st.sampled_from(sorted(self.server.calls))), answer)

    @rule(size=st.integers(1, 400))
    def deliver_to_server(self, size: int) -> None:
        """The network hands over the next bytes of the client."""
        self.to_server += self.client.data_to_send()
        arrived, self.to_server = self.to_server[:size], self.to_server[size:]
        self.server.now += 0.01
        self.server.receive(arrived)

    @rule(size=st.integers(1, 400))
    def deliver_to_client(self, size: int) -> None:
        """The network hands over the next bytes of the server."""
        self.to_client += self.server.sent
        self.server.sent.clear()
        arrived, self.to_client = self.to_client[:size], self.to_client[size:]
        for event in self.client.receive_data(arrived):
            if isinstance(event, h2.events.StreamReset):
                self.unended.discard(event.stream_id)

    def teardown(self) -> None:
        """All that was opened has reached the server in the end."""
        self.deliver_to_server(2**30)
        assert self.server.requests == self.opened


TestHonestClient = HonestClient.TestCase
TestHonestClient.settings = settings(stateful_step_count=40, deadline=None)
