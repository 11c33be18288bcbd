"""The messages between server and launcher, as values and as bytes."""

from __future__ import annotations

import json
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.launcher import protocol
from jobmaster.launcher.protocol import (
    Ack,
    Alive,
    Close,
    Closed,
    Executed,
    Exited,
    Farewell,
    HandOver,
    Hello,
    Keep,
    Message,
    Order,
    Phase,
    ProtocolError,
    Ready,
    Refused,
    Start,
    Started,
    Stopping,
    Table,
    TableEnd,
    decode,
    encode,
    pack_strings,
    unpack_strings,
)

START: Final = Start(
    id="2QL0oqGyRBKBqzRZvGQyqZx8mJn",
    uid=65534,
    gid=65534,
    groups=(4, 65534),
    umask=0o022,
    open_files=1024,
    nice=0,
    oom_score_adj=0,
    argument_count=1,
    strings=b"/\0ls\0HOME=/\0",
)
MESSAGES: Final[tuple[Message, ...]] = (
    Hello(),
    Keep(locks=("jobs", "state")),
    Ready(),
    Ready(listeners=("localhost:6443", "[::1]:6443"), max_gap=1, max_crashes=1),
    Stopping(),
    Alive(),
    HandOver(),
    Order(id="a", kind="stop", at="2024-01-01T00:00:00+00:00"),
    Order(id="a", kind="stop", at="2024-01-01T00:00:00+00:00", by="client1", reason="\0" * protocol.MAX_REASON),
    Table(id="a", pid=1, start_time=2, phase=Phase.HELD),
    Table(id="a", pid=1, start_time=2, phase=Phase.FAILED, wait_status=0x7F00, stage="exec", errno=8),
    Table(id="a", pid=1, start_time=2, phase=Phase.EXECUTED, wait_status=0, died_at=2**60),
    TableEnd(),
    TableEnd(locks=("jobs",), listeners=("localhost:6443",), predecessors=7, is_followed=True),
    START,
    Start(id="a", umask=0, open_files=1, nice=-20, oom_score_adj=-1000, argument_count=1),
    Start(
        id="a",
        umask=0,
        open_files=1,
        nice=0,
        oom_score_adj=0,
        argument_count=1,
        streams=("stdin", "stderr"),
        keeps=("input", "stdin"),
    ),
    Ack(id="a"),
    Close(id="a", keeps=("stdin",)),
    Closed(id="a", keeps=("stdin",)),
    Table(id="a", pid=1, start_time=2, phase=Phase.EXECUTED, keeps=("input", "stdin")),
    Farewell(),
    Started(id="a", pid=1, start_time=0),
    Refused(id="a", errno=11),
    Executed(id="a"),
    *(Exited(id="a", wait_status=0x8B, phase=phase) for phase in Phase),
    Exited(id="a", wait_status=0x7F00, phase=Phase.FAILED, stage="exec", errno=8),
    Exited(id="a", wait_status=0, phase=Phase.EXECUTED, died_at=2**60),
)
TEXTS: Final = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_arrive_as_they_were_sent(message: Message) -> None:
    """What is encoded decodes to an equal value of the same type."""
    arrived = decode(encode(message))
    assert (type(arrived), arrived) == (type(message), message)


def test_a_newer_peer_is_understood() -> None:
    """Fields that this version does not know are ignored."""
    assert decode(b'{"type": "ack", "id": "a", "reason": "of a later version"}') == Ack(id="a")


def test_an_older_launcher_is_understood() -> None:
    """One that does not tell when a child died."""
    said = decode(b'{"type": "exited", "id": "a", "wait_status": 0, "phase": "exec", "stage": "", "errno": 0}')
    assert said == Exited(id="a", wait_status=0, phase=Phase.EXECUTED)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"null",
        b"[]",
        b"{}",
        b"[" * 50_000,
        b'{"type": []}',
        b'{"type": "ack"}',
        b'{"type": "ack", "id": ""}',
        b'{"type": "ack", "id": 1}',
        b'{"type": "hello", "version": true}',
        b'{"type": "exited", "id": "a", "wait_status": 0, "phase": "unheard of"}',
        b'{"type": "exited", "id": "a", "wait_status": 65536, "phase": "exec"}',
        b'{"type": "exited", "id": "a", "wait_status": null, "phase": "exec"}',
        b'{"type": "exited", "id": "a", "wait_status": 0, "phase": "exec", "died_at": 0.5}',
        b'{"type": "started", "id": "a", "pid": 0, "start_time": 1}',
        b'{"type": "ready", "listeners": [1]}',
        b'{"type": "ready", "listeners": "jobs"}',
        b'{"type": "ready", "max_gap": 0}',
        json.dumps({"type": "keep", "locks": ["x"] * (protocol.MAX_LOCKS + 1)}).encode(),
        json.dumps({"type": "order", "id": "a", "kind": "stop", "at": "now", "reason": "x" * 1025}).encode(),
        json.dumps({"type": "ack", "id": "x" * 257}).encode(),
        encode(START).replace(b'"uid": 65534', b'"uid": 4294967295'),
        encode(START).replace(b'"groups": [4, ', b'"groups": [-1, '),
        encode(START).replace(b'"groups": [4, 65534]', b'"groups": 7'),
        encode(START).replace(b'"streams": []', b'"streams": ["stdout"]'),
        encode(START).replace(b'"streams": []', b'"streams": ["stdin", "stdin"]'),
        encode(START).replace(b'"keeps": []', b'"keeps": ["a", "a"]'),
        encode(START).replace(b'"keeps": []', b'"keeps": [[]]'),
        json.dumps({"type": "close", "id": "a", "keeps": list("abcdefghi")}).encode(),
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    """Bytes that are no message, or a message with a value out of its bounds, are refused as such."""
    with pytest.raises(ProtocolError):
        decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_else(data: bytes) -> None:
    """Whatever arrives is a message or a ProtocolError."""
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert repr(decode(encode(message))) == repr(message)


def test_a_value_out_of_bounds_is_not_sent() -> None:
    """A sender hears of its own mistake."""
    with pytest.raises(ProtocolError, match="umask"):
        encode(Start(id="a", umask=0o1000, open_files=1, nice=0, oom_score_adj=0, argument_count=1))


def test_the_longest_message() -> None:
    """Strings of INLINE_BYTES fit in a message with the most groups; a byte more than a message may have does not."""
    groups = tuple(2**32 - 2 - number for number in range(protocol.MAX_GROUPS))
    values = {"id": "\N{PILE OF POO}" * 256, "umask": 0, "open_files": 1, "nice": 0, "oom_score_adj": 0}
    longest = Start(**values, groups=groups, argument_count=1, strings=b"x" * protocol.INLINE_BYTES)  # type: ignore[arg-type]  # of mixed types
    assert decode(encode(longest)) == longest
    with pytest.raises(ProtocolError, match="at most"):
        encode(Start(**values, argument_count=1, strings=b"x" * protocol.MAX_MESSAGE_BYTES))  # type: ignore[arg-type]  # as above


@given(TEXTS, st.lists(TEXTS, min_size=1), st.dictionaries(TEXTS.filter(lambda t: t and "=" not in t), TEXTS))
def test_strings_arrive_untouched(folder: str, arguments: list[str], environment: dict[str, str]) -> None:
    """Folder, arguments and environment come out as they went in, empty ones too."""
    command = unpack_strings(pack_strings(folder, arguments, environment), len(arguments))
    assert command.working_folder.decode() == folder
    assert [text.decode() for text in command.arguments] == arguments
    assert {name.decode(): value.decode() for name, value in command.environment.items()} == environment


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["a\0b"], {}), (["a"], {"": "x"}), (["a"], {"A=B": "x"}), (["a"], {"A": "\0"})]
)
def test_strings_that_cannot_be(arguments: list[str], environment: dict[str, str]) -> None:
    """NUL anywhere, and names that would be read as others, are refused before anything is sent."""
    with pytest.raises(ValueError, match=r"NUL|name"):
        pack_strings("/", arguments, environment)


@pytest.mark.parametrize(("data", "count"), [(b"", 1), (b"/\0", 1), (b"/\0ls\0", 2), (b"/\0ls", 1)])
def test_strings_that_are_too_few(data: bytes, count: int) -> None:
    """Strings without the arguments that were announced, or cut off, are refused."""
    with pytest.raises(ProtocolError):
        unpack_strings(data, count)
