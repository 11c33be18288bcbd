"""The frame guard: what a client sends is cut into frames and checked here before h2 sees a byte of it.

Theory of operation
-------------------
h2 3.2 with hpack 3.0 is right about HTTP/2 but trusts its peer: it buffers without limit, decodes HPACK integers of
any length in quadratic time, keeps every unknown setting for ever, queues an answer to every PING, and lets other
exceptions than its own out. All of that happens on the event loop, so one hostile connection would stop every job's
supervisor. The guard therefore reads the nine bytes that open each frame and does one of four things:

* *hand it on*, alone and whole, so that h2 never buffers and never copies what follows a frame;
* *rewrite it*: SETTINGS lose the entries that h2 does not know, and our header compressor's table stays small;
* *drop it*: valid frames that change nothing here (PRIORITY, extensions, GOAWAY, window for a finished stream, to
  which h2 3.2 answers by closing the connection although a fast reader sends it rightly: RFC 9113, 5.1);
* *refuse it* by `GuardViolation`, whose code belongs in the GOAWAY that ends the connection.

A frame that is merely wrong (a bad length, a bad stream, an idle stream) is handed on: h2 knows the answer. What the
guard refuses by itself is what h2 would pay for before it noticed, or would not survive.

A header block is the costly frame: it may be cut into five frames and is bounded in bytes at their headers, and its
HPACK representations are walked (not decoded) before h2 decodes them. The walk ends after `MAX_FIELDS` fields, so
what remains for h2 is at most 16 KiB of Huffman code, about 4 ms.

`receive` is a generator because checks depend on what h2 has made of the frames before (is this stream live?), and
because what came before a violation has then been handed on already. Its outcome does not depend on how the bytes
were cut into reads. Between calls it holds at most one incomplete frame and one incomplete header block.

How often something may happen is an `Allowance`. Those that an honest client scales with what we send (it answers
our DATA with bandwidth probes and window updates) are earned by `data_sent` and `stream_finished`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from h2.errors import ErrorCodes

from jobmaster.errors import TransportError
from jobmaster.transport.allowance import Allowance

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER: Final = struct.Struct(">BHBBI")
"""Length (24 bits in two parts), type, flags, stream identifier with one reserved bit (RFC 9113, 4.1)."""
SETTING: Final = struct.Struct(">HI")

MAX_FRAME_LENGTH: Final = 16 * 1024
"""Bytes of a frame's payload; what the server announces, and HTTP/2's own default."""
MAX_HEADER_BLOCK: Final = 16 * 1024
MAX_CONTINUATIONS: Final = 4
MAX_FIELDS: Final = 128
"""Header fields of one block; a gRPC request has about ten."""
MAX_TABLE_SIZE_UPDATES: Final = 2
"""The lowest and the last size since the block before (RFC 7541, 4.2)."""
MAX_INTEGER_OCTETS: Final = 5
"""Octets after an HPACK integer's prefix: enough for 32 bits."""
MAX_SETTINGS: Final = 32
"""Entries of one SETTINGS frame; HTTP/2 defines seven, and clients add a few of their own."""
MAX_ENCODER_TABLE: Final = 4096
"""Bytes of the table with which we compress: h2's search of it is linear, and it fills with what clients cause."""

KNOWN_SETTINGS: Final = frozenset({1, 2, 3, 4, 5, 6, 8})
HEADER_TABLE_SIZE: Final = 1

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20


class GuardViolation(TransportError):
    """The client sent what is not taken. `reason` is short ASCII text, fit for a GOAWAY's debug data."""

    def __init__(self, error_code: ErrorCodes, reason: str) -> None:
        super().__init__(reason)
        self.error_code = error_code
        self.reason = reason


class FrameType(IntEnum):
    """The frames that the guard has a rule for (RFC 9113, 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class _Head(NamedTuple):
    """The nine bytes that open a frame."""

    length: int
    type: int
    flags: int
    stream_id: int

    def padding_of(self, frame: bytes) -> int:
        """Bytes of padding at the end of a DATA or HEADERS frame; more than the frame has where h2 will refuse it."""
        return frame[FRAME_HEADER.size] if self.flags & PADDED and self.length else 0

    def fragment_of(self, frame: bytes) -> bytes:
        """The part of a header block in a HEADERS frame; nothing where h2 will refuse the padding."""
        start = FRAME_HEADER.size + (1 if self.flags & PADDED else 0) + (5 if self.flags & PRIORITY else 0)
        return frame[start : max(start, len(frame) - self.padding_of(frame))]


class FrameGuard:
    """Guards the server's side of one connection. See the module's theory of operation.

    `is_live` tells whether h2 knows a stream, `highest_stream_id` the last stream that the client has opened; both
    are asked while `receive` is iterated. `now` is always seconds on one clock that does not go back.
    """

    def __init__(self, *, is_live: Callable[[int], bool], highest_stream_id: Callable[[], int]) -> None:
        self._is_live = is_live
        self._highest_stream_id = highest_stream_id
        self._held = bytearray()
        self._violation: tuple[ErrorCodes, str] | None = None
        self._preface_taken = False
        self._settings_taken = False
        self._block: bytearray | None = None
        self._block_stream_id = 0
        self._continuations = 0
        self.client_is_leaving = False
        """The client has sent GOAWAY: it opens no more streams, and waits for those that are open."""

        # grpc-go adapts its window with up to twenty SETTINGS as it learns the bandwidth (seen: eight in a second).
        self._settings = Allowance(burst=32, per_second=10 / 60)
        self._settings_acks = Allowance(burst=10, per_second=10 / 60)
        # A keepalive PING comes every 10 s at most; a bandwidth probe at most once for each DATA frame received
        # (seen: grpc-go 2,600 a second while reading short messages).
        self._pings = Allowance(burst=60, per_second=1, earnable=1000)
        # One for each stream that may be open at once, cancelled together, and each that ended well: a client whose
        # reset crosses our trailers does no harm.
        self._resets = Allowance(burst=100, per_second=100 / 30, earnable=1000)
        # A reader gives window back for the stream and for the connection, at worst for every DATA frame and again
        # for every message. At 1 GB/s that is 61,000 frames of 16 KiB a second, each of which earns four.
        self._window_updates = Allowance(burst=1000, per_second=1000, earnable=10_000)
        self._empty_data = Allowance(burst=10, per_second=10 / 60)
        self._idle_talk = Allowance(burst=100, per_second=100)

        self._rules: dict[int, Callable[[_Head, bytes, float], bytes | None]] = {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._on_priority,
            FrameType.RST_STREAM: self._on_rst_stream,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_continuation,
        }

    # --- what the connection tells --------------------------------------------------------------------------------

    def data_sent(self, frames: int = 1) -> None:
        """DATA frames were sent: the client may probe and give window back for each."""
        self._pings.earn(frames)
        self._window_updates.earn(4 * frames)

    def stream_finished(self) -> None:
        """A call was answered to its end: a reset of it, under way, is not counted against the client."""
        self._resets.earn(1)

    # --- receiving ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> Iterator[bytes]:
        """Takes received bytes; yields what may go to `H2Connection.receive_data`, the preface or one frame each.

        Hand each on before asking for the next, and ask to the end: nothing is taken unless it is iterated.

        Raises:
            GuardViolation: the connection has to end; what was yielded before stands. Every later call raises again.
        """
        if self._violation is not None:
            raise GuardViolation(*self._violation)
        self._held += data
        try:
            yield from self._admitted(now)
        except GuardViolation as violation:
            self._violation = violation.error_code, violation.reason
            raise

    def _admitted(self, now: float) -> Iterator[bytes]:
        if not self._preface_taken:
            if not PREFACE.startswith(self._held[: len(PREFACE)]):
                raise GuardViolation(ErrorCodes.PROTOCOL_ERROR, "not the HTTP/2 preface")
            if len(self._held) < len(PREFACE):
                return
            self._preface_taken = True
            del self._held[: len(PREFACE)]
            yield PREFACE
        while len(self._held) >= FRAME_HEADER.size:
            high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(self._held)
            head = _Head(high << 16 | low, kind, flags, stream_id & 0x7FFF_FFFF)
            self._check_head(head)
            size = FRAME_HEADER.size + head.length
            if len(self._held) < size:
                return
            frame = bytes(self._held[:size])
            del self._held[:size]  # cheap: a bytearray only moves its start
            admitted = self._rules.get(head.type, self._on_extension)(head, frame, now)
            if admitted is not None:
                yield admitted

    def _check_head(self, head: _Head) -> None:
        """Refuses a frame by its first nine bytes. Changes nothing: it is asked again while the rest arrives."""
        if head.length > MAX_FRAME_LENGTH:
            raise GuardViolation(ErrorCodes.FRAME_SIZE_ERROR, f"frame longer than {MAX_FRAME_LENGTH} bytes")
        if not self._settings_taken and (head.type != FrameType.SETTINGS or head.flags & ACK):
            raise GuardViolation(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None:
            self._check_continuation(self._block, head)
        elif head.type == FrameType.CONTINUATION:
            raise GuardViolation(ErrorCodes.PROTOCOL_ERROR, "CONTINUATION outside a header block")
        elif head.type == FrameType.PUSH_PROMISE:
            raise GuardViolation(ErrorCodes.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _check_continuation(self, block: bytearray, head: _Head) -> None:
        if head.type != FrameType.CONTINUATION or head.stream_id != self._block_stream_id:
            raise GuardViolation(ErrorCodes.PROTOCOL_ERROR, "another frame inside a header block")
        if self._continuations == MAX_CONTINUATIONS:
            raise GuardViolation(ErrorCodes.ENHANCE_YOUR_CALM, f"more than {MAX_CONTINUATIONS} CONTINUATION frames")
        if len(block) + head.length > MAX_HEADER_BLOCK:
            raise GuardViolation(ErrorCodes.ENHANCE_YOUR_CALM, f"header block longer than {MAX_HEADER_BLOCK} bytes")

    # --- one rule for each type: the bytes to hand on, or None ----------------------------------------------------

    def _on_data(self, head: _Head, frame: bytes, now: float) -> bytes:
        empty = head.length == 0 or (head.flags & PADDED and head.length == 1 + head.padding_of(frame))
        if empty and not head.flags & END_STREAM:
            _spend(self._empty_data, now, "too many empty DATA frames")
        return frame

    def _on_headers(self, head: _Head, frame: bytes, _now: float) -> bytes:
        fragment = head.fragment_of(frame)
        if head.flags & END_HEADERS:
            check_header_block(fragment)
        else:
            self._block = bytearray(fragment)
            self._block_stream_id = head.stream_id
            self._continuations = 0
        return frame

    def _on_continuation(self, head: _Head, frame: bytes, _now: float) -> bytes:
        block = self._block
        if block is None:
            raise GuardViolation(ErrorCodes.PROTOCOL_ERROR, "CONTINUATION outside a header block")
        block += frame[FRAME_HEADER.size :]
        self._continuations += 1
        if head.flags & END_HEADERS:
            self._block = None
            check_header_block(bytes(block))
        return frame

    def _on_settings(self, head: _Head, frame: bytes, now: float) -> bytes:
        self._settings_taken = True
        if head.flags & ACK:
            if head.length:  # hyperframe 5.2 would take it
                raise GuardViolation(ErrorCodes.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            _spend(self._settings_acks, now, "too many SETTINGS acknowledgements")
            return frame
        _spend(self._settings, now, "too many SETTINGS frames")
        if head.length > MAX_SETTINGS * SETTING.size:
            raise GuardViolation(ErrorCodes.ENHANCE_YOUR_CALM, f"more than {MAX_SETTINGS} settings in one frame")
        if head.stream_id or head.length % SETTING.size:
            return frame
        kept = _kept_settings(frame[FRAME_HEADER.size :])
        return len(kept).to_bytes(3, "big") + frame[3 : FRAME_HEADER.size] + kept

    def _on_ping(self, head: _Head, frame: bytes, now: float) -> bytes:
        if head.flags & ACK:
            _spend(self._idle_talk, now, "too many PING acknowledgements")
        else:
            _spend(self._pings, now, "too_many_pings")  # the text by which gRPC clients know to ping less
        return frame

    def _on_rst_stream(self, _head: _Head, frame: bytes, now: float) -> bytes:
        _spend(self._resets, now, "too many RST_STREAM frames")
        return frame

    def _on_window_update(self, head: _Head, frame: bytes, now: float) -> bytes | None:
        _spend(self._window_updates, now, "too many WINDOW_UPDATE frames")
        increment = int.from_bytes(frame[FRAME_HEADER.size :], "big") & 0x7FFF_FFFF
        valid = head.length == 4 and increment > 0
        return None if valid and self._is_finished(head.stream_id) else frame

    def _is_finished(self, stream_id: int) -> bool:
        """Neither live nor idle. Only a client's streams (odd numbers) can be that."""
        return stream_id % 2 == 1 and stream_id <= self._highest_stream_id() and not self._is_live(stream_id)

    def _on_goaway(self, head: _Head, frame: bytes, now: float) -> bytes | None:
        _spend(self._idle_talk, now, "too many GOAWAY frames")
        if head.stream_id or head.length < 8:
            return frame
        self.client_is_leaving = True
        return None

    def _on_priority(self, head: _Head, frame: bytes, now: float) -> bytes | None:
        _spend(self._idle_talk, now, "too many PRIORITY frames")
        depends_on = int.from_bytes(frame[FRAME_HEADER.size : FRAME_HEADER.size + 4], "big") & 0x7FFF_FFFF
        valid = head.length == 5 and head.stream_id and depends_on != head.stream_id
        return None if valid else frame

    def _on_extension(self, _head: _Head, _frame: bytes, now: float) -> None:
        _spend(self._idle_talk, now, "too many extension frames")


def _spend(allowance: Allowance, now: float, reason: str) -> None:
    if not allowance.take(now):
        raise GuardViolation(ErrorCodes.ENHANCE_YOUR_CALM, reason)


def _kept_settings(payload: bytes) -> bytes:
    """The entries that h2 knows, in their order, with the header table no larger than ours may be."""
    return b"".join(
        SETTING.pack(identifier, min(value, MAX_ENCODER_TABLE) if identifier == HEADER_TABLE_SIZE else value)
        for identifier, value in SETTING.iter_unpack(payload)
        if identifier in KNOWN_SETTINGS
    )


# --- HPACK ------------------------------------------------------------------------------------------------------------


def check_header_block(block: bytes) -> None:
    """Walks the representations of a complete header block (RFC 7541, 6) without decoding a string.

    Table indices and Huffman code are left to h2's decoder.

    Raises:
        GuardViolation: COMPRESSION_ERROR for a malformed block, ENHANCE_YOUR_CALM for one with too many fields,
            PROTOCOL_ERROR for an empty field name (h2 3.2 answers that with an IndexError).
    """
    position = fields = updates = 0
    while position < len(block):
        first = block[position]
        if first & 0xE0 == 0x20:
            updates += 1
            if fields or updates > MAX_TABLE_SIZE_UPDATES:
                raise GuardViolation(
                    ErrorCodes.COMPRESSION_ERROR, "table size update too many or too late in a header block"
                )
            _, position = _integer(block, position, prefix_bits=5)
            continue
        fields += 1
        if fields > MAX_FIELDS:
            raise GuardViolation(ErrorCodes.ENHANCE_YOUR_CALM, f"more than {MAX_FIELDS} header fields")
        if first & 0x80:
            _, position = _integer(block, position, prefix_bits=7)
        else:
            position = _after_literal(block, position, prefix_bits=6 if first & 0x40 else 4)


def _after_literal(block: bytes, position: int, *, prefix_bits: int) -> int:
    """Where a literal field that starts at `position` ends."""
    index, position = _integer(block, position, prefix_bits=prefix_bits)
    if index == 0:
        name_length, position = _integer(block, position, prefix_bits=7)
        if name_length == 0:
            raise GuardViolation(ErrorCodes.PROTOCOL_ERROR, "empty header field name")
        position += name_length
    value_length, position = _integer(block, position, prefix_bits=7)
    if position + value_length > len(block):
        raise GuardViolation(ErrorCodes.COMPRESSION_ERROR, "truncated header block")
    return position + value_length


def _integer(block: bytes, position: int, *, prefix_bits: int) -> tuple[int, int]:
    """The integer at `position` (RFC 7541, 5.1) and the position behind it."""
    if position >= len(block):
        raise GuardViolation(ErrorCodes.COMPRESSION_ERROR, "truncated header block")
    most = (1 << prefix_bits) - 1
    value = block[position] & most
    position += 1
    if value < most:
        return value, position
    for shift, octet in enumerate(block[position : position + MAX_INTEGER_OCTETS]):
        value += (octet & 0x7F) << 7 * shift
        if octet < 0x80:
            return value, position + shift + 1
    raise GuardViolation(ErrorCodes.COMPRESSION_ERROR, "unending or truncated integer in a header block")
