"""Header blocks: HPACK (RFC 7541) with a bound on the work and the memory that a block can cost.

Theory of operation
-------------------
A hostile block must not make the decoder read an endless integer, resize its table again and again, or hold a list
that grows with each reference to one large entry. So an integer has at most five octets, a block at
most two changes of the table's size, both at its beginning, and of a list that grows beyond `max_list_size` the rest
is decoded, because the table depends on it, but not kept. The work is then linear in the block's bytes, at most some
0.3 µs each, for Huffman code.

A client repeats its requests, in the same few bytes once its table is filled. A block that does not change the table
decodes to the same fields until one does; so these are remembered, and decoding it again is one look-up.

What we send is encoded without the dynamic table, so that it needs no state: a literal costs a few bytes more and
nothing else.

The two large tables of the RFC, the static one and the Huffman code, come from the package hpack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Generic, TypeVar

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from jobmaster.errors import TransportError

Field = tuple[bytes, bytes]
Parsed = TypeVar("Parsed")

FIELD_OVERHEAD: Final = 32
"""Bytes that each field counts beside its name and value, in tables and lists (RFC 7541, 4.1)."""
TABLE_SIZE: Final = 4096
"""Bytes of the dynamic table; the default, which we leave as it is."""
MAX_SIZE_UPDATES: Final = 2
"""The lowest and the last size since the block before (RFC 7541, 4.2)."""
MAX_INTEGER_OCTETS: Final = 5
"""Octets after an integer's prefix: enough for 32 bits."""
REMEMBERED: Final = 64
"""Blocks whose fields are remembered."""
LONGEST_REMEMBERED: Final = 256
"""Bytes of such a block; a client that repeats itself needs about ten."""

_STATIC: Final[tuple[Field, ...]] = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
_STATIC_FIELDS: Final = {field: index for index, field in enumerate(_STATIC, 1)}
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}

NO_TABLE: Final = b"\x20"
"""What announces that the encoder uses no dynamic table, at the beginning of a block (RFC 7541, 6.3)."""


class MalformedBlock(TransportError):
    """A header block cannot be decoded: the connection has to end, for its table is no longer known."""


@dataclass(frozen=True, slots=True)
class FieldList:
    """The fields of a decoded block; only those up to the bound of a list that is `too_large`."""

    fields: tuple[Field, ...]
    too_large: bool = False


class BlockDecoder(Generic[Parsed]):
    """Decodes the header blocks of one peer, in the order in which they were sent."""

    def __init__(self, parse: Callable[[FieldList], Parsed], *, max_list_size: int) -> None:
        """Makes a decoder with an empty table.

        Args:
            parse: a pure function of the fields; it is not called again for a block that is remembered.
            max_list_size: bytes of names and values, with `FIELD_OVERHEAD` for each field.
        """
        self._parse = parse
        self._max_list_size = max_list_size
        self._table: deque[Field] = deque()
        self._table_size = 0
        self._table_limit = TABLE_SIZE
        self._table_changes = 0
        self._known: dict[bytes, Parsed] = {}

    def decode(self, block: bytes) -> Parsed:
        """Decodes a complete block: what `parse` made of its fields.

        Raises:
            MalformedBlock: it is not HPACK, or costs more to decode than any peer needs.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        changes = self._table_changes
        parsed = self._parse(self._decode(block))
        if changes == self._table_changes and len(self._known) < REMEMBERED and len(block) <= LONGEST_REMEMBERED:
            self._known[block] = parsed
        return parsed

    def _decode(self, block: bytes) -> FieldList:
        fields: list[Field] = []
        size = 0
        position = self._resize_table(block)
        while position < len(block):
            first = block[position]
            if first & 0x80:
                index, position = _integer(block, position, 7)
                field = self._entry(index)
            elif first & 0x40:
                field, position = self._literal(block, position, 6)
                self._insert(field)
            elif first & 0x20:
                raise MalformedBlock("table size update too many or too late in a header block")
            else:
                field, position = self._literal(block, position, 4)
            size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD
            if size <= self._max_list_size:
                fields.append(field)
        return FieldList(tuple(fields), too_large=size > self._max_list_size)

    def _resize_table(self, block: bytes) -> int:
        """Applies the table size updates that open a block; returns the position of its first field."""
        position = 0
        for _ in range(MAX_SIZE_UPDATES):
            if position == len(block) or block[position] & 0xE0 != 0x20:
                break
            limit, position = _integer(block, position, 5)
            if limit > TABLE_SIZE:
                raise MalformedBlock("table larger than was offered")
            self._table_limit = limit
            self._table_has_changed()
        return position

    def _literal(self, block: bytes, position: int, prefix_bits: int) -> tuple[Field, int]:
        index, position = _integer(block, position, prefix_bits)
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        return (name, value), position

    def _entry(self, index: int) -> Field:
        if 0 < index <= len(_STATIC):
            return _STATIC[index - 1]
        index -= len(_STATIC) + 1
        if not 0 <= index < len(self._table):
            raise MalformedBlock("index beyond the table in a header block")
        return self._table[index]

    def _insert(self, field: Field) -> None:
        self._table.appendleft(field)
        self._table_size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD
        self._table_has_changed()

    def _table_has_changed(self) -> None:
        while self._table_size > self._table_limit:
            name, value = self._table.pop()
            self._table_size -= len(name) + len(value) + FIELD_OVERHEAD
        self._table_changes += 1
        self._known.clear()


def _integer(block: bytes, position: int, prefix_bits: int) -> tuple[int, int]:
    """The integer at `position` (RFC 7541, 5.1), and the position behind it."""
    if position >= len(block):
        raise MalformedBlock("truncated header block")
    most = (1 << prefix_bits) - 1
    value = block[position] & most
    position += 1
    if value < most:
        return value, position
    for shift, octet in enumerate(block[position : position + MAX_INTEGER_OCTETS]):
        value += (octet & 0x7F) << 7 * shift
        if octet < 0x80:
            return value, position + shift + 1
    raise MalformedBlock("unending or truncated integer in a header block")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """The string at `position` (RFC 7541, 5.2), and the position behind it."""
    is_coded = position < len(block) and block[position] & 0x80
    length, position = _integer(block, position, 7)
    end = position + length
    if end > len(block):
        raise MalformedBlock("truncated header block")
    if not is_coded:
        return block[position:end], end
    try:
        return bytes(decode_huffman(block[position:end])), end
    except HPACKDecodingError:
        raise MalformedBlock("bad Huffman code in a header block") from None


# --- encoding ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def encode_once(fields: tuple[Field, ...]) -> bytes:
    """As `encode_block`, with the result cached: for fields that are sent with many requests."""
    return encode_block(fields)


def encode_block(fields: Iterable[Field]) -> bytes:
    """A block of these fields that neither needs nor changes a dynamic table."""
    block = bytearray()
    for name, value in fields:
        if (index := _STATIC_FIELDS.get((name, value))) is not None:
            _append_integer(block, 0x80, 7, index)
            continue
        index = _STATIC_NAMES.get(name, 0)
        _append_integer(block, 0x00, 4, index)
        if not index:
            _append_integer(block, 0x00, 7, len(name))
            block += name
        _append_integer(block, 0x00, 7, len(value))
        block += value
    return bytes(block)


def _append_integer(block: bytearray, first: int, prefix_bits: int, value: int) -> None:
    most = (1 << prefix_bits) - 1
    if value < most:
        block.append(first | value)
        return
    block.append(first | most)
    value -= most
    while value >= 0x80:
        block.append(value & 0x7F | 0x80)
        value >>= 7
    block.append(value)
