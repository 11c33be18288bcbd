"""h2 3.2 as this transport uses it: without habits that end calls which could go on, and with two short cuts.

purerpc's metadata pins h2 below 4, so what later releases mended is mended here. The short cuts are for the two
things that are most of an output stream's and of a unary call's work: DATA frames and header blocks that never
change. Both keep h2's own accounts (windows, states of streams) true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.stream

from jobmaster.transport.frames import data_frames, header_frame


class PatientH2Connection(h2.connection.H2Connection):  # type: ignore[misc]  # h2 ships no types
    """An HTTP/2 connection, sans-io."""

    MAX_CLOSED_STREAMS = 1024
    """Of how many ended streams h2 remembers how they ended; its own 65,536 are 14 MiB."""

    def __init__(self, *, client_side: bool) -> None:
        super().__init__(
            h2.config.H2Configuration(
                client_side=client_side,
                header_encoding=None,
                validate_outbound_headers=False,  # ours are right, and a test says so
                normalize_outbound_headers=False,
            )
        )

    # --- patience -------------------------------------------------------------------------------------------------

    def _receive_window_update_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        """A finished stream's WINDOW_UPDATE, which a fast reader sends rightly, is no error (RFC 9113, 5.1).

        An increment of nothing is an error of its stream alone (RFC 9113, 6.9).
        """
        if frame.window_increment == 0 and self.is_live(frame.stream_id):
            self.reset_stream(frame.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            event = h2.events.StreamReset()
            event.stream_id = frame.stream_id
            event.error_code = h2.errors.ErrorCodes.PROTOCOL_ERROR
            event.remote_reset = False
            return [], [event]
        try:
            result: tuple[list[Any], list[Any]] = super()._receive_window_update_frame(frame)
        except h2.exceptions.StreamClosedError:
            return [], []
        return result

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        """A GOAWAY is an event and no end: open streams may finish (RFC 9113, 6.8)."""
        event = h2.events.ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]

    @property
    def open_inbound_streams(self) -> int:
        """None, as far as h2 is concerned: the owner refuses the excess stream by stream, h2 would end them all.

        h2 also walks every stream here to clear away ended ones; `forget` does that one by one.
        """
        return 0

    def is_live(self, stream_id: int) -> bool:
        """True for a stream that is open in either direction."""
        stream = self.streams.get(stream_id)
        return stream is not None and not stream.closed

    def forget(self, stream_id: int) -> None:
        """Clears an ended stream away."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by

    # --- short cuts -----------------------------------------------------------------------------------------------

    def stream_window(self, stream_id: int) -> int:
        """How many bytes of DATA the peer takes on a stream now; 0 for a stream that is gone.

        A peer may make a window negative by shrinking what streams begin with (RFC 9113, 6.9.2): that is 0 too.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        return max(0, min(int(self.outbound_flow_control_window), int(stream.outbound_flow_control_window)))

    def data(
        self, stream_id: int, parts: Sequence[bytes | memoryview], offset: int, length: int, largest: int
    ) -> bytes:
        """Frames for `length` bytes, at most `stream_window`, of a stream that this side has not ended."""
        stream = self.streams[stream_id]
        stream.outbound_flow_control_window -= length
        self.outbound_flow_control_window -= length
        return data_frames(stream_id, parts, offset, length, min(largest, self.max_outbound_frame_size))

    def prepared_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
        """A HEADERS frame around an HPACK block that was encoded beforehand, without the dynamic table.

        Raises:
            h2.exceptions.ProtocolError: the stream cannot have headers now.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            raise h2.exceptions.StreamClosedError(stream_id)
        inputs = h2.stream.StreamInputs
        stream.state_machine.process_input(inputs.SEND_HEADERS)
        if end_stream:
            stream.state_machine.process_input(inputs.SEND_END_STREAM)
        if self.encoder.header_table.resized:  # the peer changed its table's size: the next block has to say so
            block = self.encoder.encode(()) + block
        return header_frame(stream_id, block, end_stream=end_stream)
