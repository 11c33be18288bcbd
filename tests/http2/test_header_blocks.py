"""Header blocks: what hpack makes of the same bytes, the bounds on hostile ones, and the memory for repeated ones."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.http2.header_blocks import (
    FIELD_OVERHEAD,
    LONGEST_REMEMBERED,
    NO_TABLE,
    REMEMBERED,
    TABLE_SIZE,
    BlockDecoder,
    Field,
    FieldList,
    MalformedBlock,
    encode_block,
)

LIST_SIZE: Final = 16 * 1024

names = st.sampled_from([b":method", b":path", b"te", b"content-type", b"x-trace", b"grpc-timeout"]) | st.binary(
    min_size=1, max_size=30
)
values = st.sampled_from([b"POST", b"/", b"trailers", b"application/grpc"]) | st.binary(max_size=60)
lists = st.lists(st.tuples(names, values), max_size=8)


def new_decoder() -> BlockDecoder[FieldList]:
    """A decoder that hands out the lists themselves."""
    return BlockDecoder(lambda fields: fields, max_list_size=LIST_SIZE)


def fields_of(block: bytes) -> tuple[Field, ...]:
    """What a first block says."""
    return new_decoder().decode(block).fields


def long_string(length: int, octet: bytes = b"x") -> bytes:
    """A string literal of that many equal octets, 127 of them at least."""
    rest, octets = length - 127, []
    while rest >= 128:
        octets.append(rest & 127 | 128)
        rest >>= 7
    return bytes([127, *octets, rest]) + octet * length


# --- the same as hpack ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(lists, st.booleans(), st.sampled_from([None, 0, 100, 4096])), max_size=8))
def test_what_hpack_encodes_is_decoded(blocks: list[tuple[list[Field], bool, int | None]]) -> None:
    """Block after block, with and without Huffman code, with tables that shrink and grow: the fields come out."""
    encoder: Any = Encoder()
    decoder = new_decoder()
    for fields, huffman, table_size in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        assert decoder.decode(encoder.encode(fields, huffman=huffman)).fields == tuple(fields)


@given(st.lists(lists, max_size=4))
def test_what_is_encoded_hpack_decodes(blocks: list[list[Field]]) -> None:
    """Our blocks are HPACK that needs no table and leaves none behind."""
    decoder: Any = Decoder()
    for fields in blocks:
        assert [(bytes(name), bytes(value)) for name, value in decoder.decode(encode_block(fields), raw=True)] == fields
    assert not decoder.header_table.dynamic_entries


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_any_bytes_mean_what_they_mean_to_hpack(blocks: list[bytes]) -> None:
    """Whatever the bytes, both decoders read the same fields, or neither takes them."""
    ours, theirs = new_decoder(), Decoder()
    for block in blocks:
        try:
            fields = ours.decode(block).fields
        except MalformedBlock as refusal:
            if "size update" not in str(refusal) and "integer" not in str(refusal):  # there we are the stricter ones
                with pytest.raises((HPACKError, IndexError)):
                    theirs.decode(block, raw=True)
            return
        assert [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)] == list(fields)


def test_examples_of_the_rfc() -> None:
    """Three requests that fill the table (RFC 7541, C.4)."""
    decoder = new_decoder()
    first = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")
    second = bytes.fromhex("828684be5886a8eb10649cbf")
    third = bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf")
    opening = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com"))
    assert decoder.decode(first).fields == opening
    assert decoder.decode(second).fields == (*opening, (b"cache-control", b"no-cache"))
    assert decoder.decode(third).fields == (
        *((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html")),
        *((b":authority", b"www.example.com"), (b"custom-key", b"custom-value")),
    )


# --- what is refused --------------------------------------------------------------------------------------------------


MALFORMED: Final = {
    "index 0": b"\x80",
    "index beyond the table": b"\xbe",
    "name beyond the table": b"\x7e\x00",
    "three size updates": b"\x20\x20\x20\x82",
    "size update after a field": b"\x82\x20",
    "table larger than offered": b"\x3f\xe2\x1f",
    "integer of six octets": b"\xff\x80\x80\x80\x80\x80\x00",
    "unending integer": b"\xff" * 30_000,
    "truncated integer": b"\x7f\x80",
    "truncated name": b"\x00\x05abcd",
    "missing value": b"\x00\x01a",
    "truncated value": b"\x00\x01a\x02b",
    "Huffman code with the end of string in it": b"\x00\x01a\x84\xff\xff\xff\xff",
    "Huffman code with long padding": b"\x00\x01a\x82\x1f\xff",
    "Huffman code padded with zeros": b"\x00\x01a\x81\x00",
}


@pytest.mark.parametrize("block", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(block: bytes) -> None:
    """What is not HPACK, or dearer than anybody needs, is refused in short words that can be sent."""
    with pytest.raises(MalformedBlock) as caught:
        fields_of(block)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    "block", [b"\x20\x3f\xe1\x1f\x82", b"\x3f\xe1\x1f\x82", b"\x82"], ids=["two size updates", "one", "none"]
)
def test_size_updates_at_the_beginning(block: bytes) -> None:
    """The lowest and the last size since the block before may open a block."""
    assert fields_of(block) == ((b":method", b"GET"),)


def test_integer_of_five_octets() -> None:
    """As many octets as 32 bits need are taken, even where they say little."""
    assert fields_of(b"\x0f\x80\x80\x80\x80\x00\x01v") == ((b"accept-charset", b"v"),)


def test_an_empty_name_is_for_others_to_judge() -> None:
    """HPACK can say what HTTP cannot."""
    assert fields_of(b"\x00\x00\x01v") == ((b"", b"v"),)


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_list_that_is_too_large() -> None:
    """The fields up to the bound are kept, the rest still fills the table, and the decoder goes on."""
    decoder = new_decoder()
    block = b"\x82" + b"\x00\x01x" + long_string(LIST_SIZE) + b"\x40\x01k\x01v"
    listed = decoder.decode(block)
    assert listed.too_large
    assert listed.fields == ((b":method", b"GET"),)
    assert decoder.decode(b"\xbe") == FieldList(((b"k", b"v"),))


def test_a_list_of_the_largest_size() -> None:
    """The bound itself is not too much; a field counts its name, its value and its overhead."""
    most = LIST_SIZE - FIELD_OVERHEAD - 1
    assert not new_decoder().decode(b"\x00\x01x" + long_string(most)).too_large
    assert new_decoder().decode(b"\x00\x01x" + long_string(most + 1)).too_large


def test_references_to_a_giant_hold_no_memory() -> None:
    """Thousands of references to one large entry leave no more than the bound of fields."""
    giant = b"\x40\x01x" + long_string(4000)
    listed = new_decoder().decode(giant + b"\xbe" * 20_000)
    assert listed.too_large
    assert sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in listed.fields) <= LIST_SIZE


def test_the_table_is_bounded() -> None:
    """Whatever is put into the table, its size stays; an entry larger than the table empties it (RFC 7541, 4.4)."""
    decoder = new_decoder()
    for number in range(1000):
        decoder.decode(b"\x40\x04" + b"%04d" % number + b"\x01v")
        assert sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in decoder._table) <= TABLE_SIZE
    assert decoder.decode(b"\xbe").fields == ((b"0999", b"v"),)
    decoder.decode(b"\x40\x01x" + long_string(TABLE_SIZE))
    with pytest.raises(MalformedBlock):
        decoder.decode(b"\xbe")


# --- memory for what is repeated --------------------------------------------------------------------------------------


class Reader:
    """Counts how often it is asked what fields mean."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, fields: FieldList) -> FieldList:
        """The fields themselves."""
        self.asked += 1
        return fields


def test_a_repeated_block_is_read_once() -> None:
    """A block that does not change the table is remembered, with what its fields mean."""
    reader = Reader()
    decoder = BlockDecoder(reader, max_list_size=LIST_SIZE)
    first = decoder.decode(b"\x83\x86")
    assert all(decoder.decode(b"\x83\x86") is first for _ in range(10))
    assert reader.asked == 1


def test_a_change_of_the_table_ends_the_memory() -> None:
    """The same bytes mean something else once the table has changed; a block that changes it is never remembered."""
    decoder = new_decoder()
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\xbe").fields == ((b"a", b"b"),)
    decoder.decode(b"\x40\x01c\x01d")
    assert decoder.decode(b"\xbe").fields == ((b"c", b"d"),)
    decoder.decode(b"\x20\x3f\xe1\x1f")
    with pytest.raises(MalformedBlock):
        decoder.decode(b"\xbe")


@given(st.lists(st.sampled_from([b"\x82", b"\xbe", b"\x40\x01a\x01b", b"\x40\x01c\x01d", b"\x20", b"\x3f\xe1\x1f"])))
def test_memory_changes_nothing(blocks: list[bytes]) -> None:
    """A decoder that remembers reads what one that has been through the same blocks, each made different, reads."""
    remembering, padded = new_decoder(), new_decoder()
    for number, block in enumerate(blocks):
        unique = b"" if block[0] & 0xE0 == 0x20 else b"\x00\x04" + b"%04d" % number + b"\x00"
        outcomes: list[tuple[Field, ...] | None] = []
        for decoder, sent in ((remembering, block), (padded, block + unique)):
            try:
                outcomes.append(decoder.decode(sent).fields[:1])
            except MalformedBlock:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1]
        if outcomes[0] is None:
            return


def test_the_memory_is_bounded() -> None:
    """Neither many blocks nor a long one are remembered without end."""
    decoder = new_decoder()
    decoder.decode(b"\x00\x01x" + long_string(LONGEST_REMEMBERED))
    assert not decoder._known
    for number in range(2 * REMEMBERED):
        decoder.decode(b"\x00\x04" + b"%04d" % number + b"\x00")
    assert len(decoder._known) == REMEMBERED


def test_no_table_is_announced_by_a_size_of_nothing() -> None:
    """What goes before our first block, where the peer changed its table's size, is HPACK and changes no field."""
    decoder: Any = Decoder()
    assert decoder.decode(NO_TABLE + encode_block([(b"a", b"b")]), raw=True) == [(b"a", b"b")]
    assert decoder.header_table.maxsize == 0
