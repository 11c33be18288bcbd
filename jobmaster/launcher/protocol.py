"""The messages between server and launcher, as values.

One message is one record of a SOCK_SEQPACKET pair: a JSON object with a `type`, for `start` followed by NUL and the
strings of the command, NUL-terminated (working folder, arguments, environment as NAME=VALUE). Strings of more than
`INLINE_BYTES` travel in a sealed memfd instead. Descriptors travel beside a record (SCM_RIGHTS), in the order that
each class names.

Values are named tuples, given by keyword: dataclasses would cost each launcher 2 MB and 10 ms. Those of two types can
be equal, so a message is told by `match`, never by `==` alone.

The protocol only grows: unknown fields are ignored, both sides say their version in `hello`.

A server says `hello` and is answered by `hello`, then by one `table` for each child that an earlier server has left
(followed by its `order`, if it has one), then by `table_end`. The launcher says nothing before, and nothing of a child
before its `table`. A `start` whose id is in use is refused, so ids are never used again. What the launcher knows of a
child is kept until the server's `ack`; `ack` for a child that lives kills it.
"""

from __future__ import annotations

import json
import os
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VERSION: Final = 3
"""2: `table`, `table_end`, `keep`, `ready`, `stopping`, `hand_over`, `order`. 3: `streams`, `keeps`, `close`, `closed`."""
KEEPS_VERSION: Final = 3
"""The first in which a child can have streams of its own; a server that is older is not given what is kept of them."""
INLINE_BYTES: Final = 64 * 1024
"""Strings up to this many bytes travel in the message; a message of 212,960 bytes is the most the kernel takes."""
MAX_STRINGS_BYTES: Final = 8 * 1024 * 1024
"""The kernel takes at most 6 MiB of arguments and environment (3/4 of 8 MiB of stack), so more can't succeed."""
MAX_MESSAGE_BYTES: Final = INLINE_BYTES + 32 * 1024
MAX_GROUPS: Final = 1024
MAX_LISTENERS: Final = 32
MAX_LOCKS: Final = 8
MAX_KEEPS: Final = 8
STREAMS: Final = ("stdin", "stderr", "terminal")
"""What a child can have of its own: `terminal` is all three standard streams, and its controlling terminal."""
MAX_DESCRIPTORS: Final = MAX_LISTENERS + MAX_LOCKS
"""Of one message: `table_end` has the most."""
MAX_REASON: Final = 1024
"""Characters of an order's reason."""
KILL: Final = "kill"
"""The kind of an order that takes the place of the one before."""
UNKNOWN_STATUS: Final = 0xFFFF
"""In the place of a wait status that the kernel did not tell: that of no death (wait(2): of a process that continues)."""
ENVIRONMENT_VARIABLE: Final = "JOBMASTER_LAUNCHER"
"""Names, in the server's environment, the descriptor of its end of the socket pair."""


class ProtocolError(ValueError):
    """The peer sent what is no message of this protocol."""


class Phase(Enum):
    """How far a child got on its way to the command."""

    HELD = "held"
    """It waits for the go byte, or is on its way there."""
    EXECUTED = "exec"
    FAILED = "failed"
    """A step before the command's first instruction failed: `stage` and `errno` say which and why."""
    ABANDONED = "abandoned"
    """The go pipe ended without the byte."""
    NEVER_RAN = "never_ran"
    """It was killed before it executed the command."""


class Hello(NamedTuple):
    """The first message of each side."""

    version: int = VERSION


class Keep(NamedTuple):
    """What the launcher holds for the server, in place of what it held before.

    Descriptors: cgroup.kill of the jobs' folder, then one for each of `locks`, which are names.
    """

    locks: tuple[str, ...] = ()


class Ready(NamedTuple):
    """The server serves: from now on its jobs outlive it.

    Descriptors: one for each of `listeners`, the listening sockets by name, in place of those that were held before.

    Attributes:
        max_gap: seconds without a server that is ready, after which the jobs are ended.
        max_crashes: how many deaths of servers that were ready, in five minutes, end the jobs.
        grace: seconds between SIGTERM and SIGKILL, for the launcher where it has to end the jobs itself.
    """

    listeners: tuple[str, ...] = ()
    max_gap: int = 300
    max_crashes: int = 5
    grace: int = 10


class Stopping(NamedTuple):
    """The server accepts no more and ends its jobs: the listening sockets are closed here too."""


class Alive(NamedTuple):
    """The server goes on: said as often as its environment asks for it, by servers whose launcher knows it."""


class Start(NamedTuple):
    """Asks for a child.

    Descriptors: write end of the output pipe, its read end, read end of the go pipe, the cgroup's folder, the memfd with
    the strings where `strings` is empty, then one for each of `streams` and one for each of `keeps`.

    Attributes:
        streams: which of `STREAMS` are the child's own. Without them its stdin is /dev/null, and its stderr the output.
        keeps: names of descriptors that are kept for the next server and given back in the child's `table`; what they are
            is the servers' business.
        uid: None leaves user, groups and bounding set as they are, for a server that is not root.
        keeps_capabilities: root by name, with all capabilities and without no_new_privs.
        open_files: soft RLIMIT_NOFILE, lowered to the hard limit where that is less.
        argument_count: how many of the strings after the first are arguments; the others are the environment.
    """

    id: str
    umask: int
    open_files: int
    nice: int
    oom_score_adj: int
    argument_count: int
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    keeps_capabilities: bool = False
    streams: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    strings: bytes = b""


class Ack(NamedTuple):
    """What is known of a child is recorded and may be forgotten; a child that lives is killed."""

    id: str


class Close(NamedTuple):
    """Descriptors that are kept for a child are closed; those of `keeps` that there are not (any more) are passed over."""

    id: str
    keeps: tuple[str, ...]


class Order(NamedTuple):
    """Somebody has ordered something for a child: sent before its signal, and given back after its `table`.

    The first one for a child is kept, until one of the kind KILL follows.

    Attributes:
        kind: what is to be done, "stop" for instance.
        at: a point in time, as text.
        by: who ordered it; None for the server itself.
        reason: for people; at most `MAX_REASON` characters.
    """

    id: str
    kind: str
    at: str
    by: str | None = None
    reason: str = ""


class HandOver(NamedTuple):
    """The server is about to end, on purpose, and leaves its jobs to the next one."""


class Farewell(NamedTuple):
    """The server has ended its jobs and is about to end itself: nothing is to be killed by cgroup."""


class Started(NamedTuple):
    """A child is held. Descriptor: its pidfd. `start_time` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    id: str
    pid: int
    start_time: int


class Refused(NamedTuple):
    """There is no child, and why."""

    id: str
    errno: int


class Executed(NamedTuple):
    """The command's program has been executed."""

    id: str


class Exited(NamedTuple):
    """A child has died.

    Attributes:
        wait_status: as of wait(2), or `UNKNOWN_STATUS`.
        stage, errno: belong to the phase FAILED.
        died_at: nanoseconds of CLOCK_BOOTTIME; None from a launcher that does not tell.
    """

    id: str
    wait_status: int
    phase: Phase
    stage: str = ""
    errno: int = 0
    died_at: int | None = None


class Forgotten(NamedTuple):
    """The answer to `ack`, once the child has died: every descriptor that the launcher had of it is closed."""

    id: str


class Closed(NamedTuple):
    """The answer to `close`."""

    id: str
    keeps: tuple[str, ...]


class Table(NamedTuple):
    """A child that an earlier server has left.

    Descriptors: the read end of its output pipe, its pidfd where it has no `wait_status`, then those of `keeps`.

    Attributes:
        keeps: as of `Start`, without those that were closed since.
        wait_status: as of wait(2), or `UNKNOWN_STATUS`; None where it lives.
        phase, stage, errno, died_at: as of `Exited`.
    """

    id: str
    pid: int
    start_time: int
    phase: Phase
    wait_status: int | None = None
    stage: str = ""
    errno: int = 0
    keeps: tuple[str, ...] = ()
    died_at: int | None = None


class TableEnd(NamedTuple):
    """There are no more children. Descriptors: those of `locks`, then those of `listeners`, as they were given.

    Attributes:
        predecessors: how many servers this launcher has started before this one.
        is_followed: whether it starts another one where this one was ready and dies.
    """

    locks: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()
    predecessors: int = 0
    is_followed: bool = False


FromServer = Hello | Keep | Start | Ack | Close | Order | Ready | Alive | Stopping | HandOver | Farewell
FromLauncher = Hello | Table | Order | TableEnd | Started | Refused | Executed | Exited | Closed | Forgotten
Message = FromServer | FromLauncher

_TYPES: Final[dict[str, type[Message]]] = {
    "hello": Hello,
    "keep": Keep,
    "ready": Ready,
    "alive": Alive,
    "stopping": Stopping,
    "start": Start,
    "ack": Ack,
    "close": Close,
    "closed": Closed,
    "order": Order,
    "hand_over": HandOver,
    "farewell": Farewell,
    "started": Started,
    "refused": Refused,
    "exec": Executed,
    "exited": Exited,
    "forgotten": Forgotten,
    "table": Table,
    "table_end": TableEnd,
}
_NAMES: Final = {message: name for name, message in _TYPES.items()}


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _text(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is str and low <= len(value) <= high and "\0" not in value


def _texts(most: int) -> Callable[[Any], bool]:
    is_name = _text(1, 256)
    return lambda value: type(value) is tuple and len(value) <= most and all(map(is_name, value))


def _is_bool(value: Any) -> bool:
    return type(value) is bool


_are_texts_of_keeps: Final = _texts(MAX_KEEPS)
_is_id: Final = _whole(0, 2**32 - 2)  # 2^32 - 1 means "unchanged" to setresuid(2)

_CHECKS: Final[dict[str, Callable[[Any], bool]]] = {
    "version": _whole(1, 2**31),
    "id": _text(1, 256),
    "uid": _is_id,
    "gid": _is_id,
    "groups": lambda value: type(value) is tuple and len(value) <= MAX_GROUPS and all(map(_is_id, value)),
    "keeps_capabilities": _is_bool,
    "is_followed": _is_bool,
    "umask": _whole(0, 0o777),
    "open_files": _whole(1, 2**31),
    "nice": _whole(-20, 19),
    "oom_score_adj": _whole(-1000, 1000),
    "argument_count": _whole(1, MAX_STRINGS_BYTES),
    "pid": _whole(1, 2**31),
    "start_time": _whole(0, 2**63),
    "wait_status": _whole(0, 0xFFFF),
    "phase": lambda value: type(value) is Phase,
    "stage": _text(0, 64),
    "errno": _whole(0, 4095),
    "died_at": _whole(0, 2**63),
    "locks": _texts(MAX_LOCKS),
    "streams": lambda value: type(value) is tuple and len(set(value)) == len(value) and set(value) <= set(STREAMS),
    "keeps": lambda value: _are_texts_of_keeps(value) and len(set(value)) == len(value),
    "listeners": _texts(MAX_LISTENERS),
    "max_gap": _whole(1, 2**31),
    "max_crashes": _whole(1, 2**31),
    "grace": _whole(0, 2**31),
    "predecessors": _whole(0, 2**63),
    "kind": _text(1, 32),
    "at": _text(1, 64),
    "by": _text(0, 256),
    "reason": lambda value: type(value) is str and len(value) <= MAX_REASON,
}
_TUPLES: Final = ("groups", "locks", "listeners", "streams", "keeps")


def encode(message: Message) -> bytes:
    """The bytes of a message.

    Raises:
        ProtocolError: a value is out of its bounds, or the message is longer than `MAX_MESSAGE_BYTES`.
    """
    values = message._asdict()
    strings: bytes = values.pop("strings", b"")
    _check(type(message), values)
    if "phase" in values:
        values["phase"] = values["phase"].value
    encoded = json.dumps({"type": _NAMES[type(message)], **values}).encode("ascii") + (
        b"\0" + strings if strings else b""
    )
    if len(encoded) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(encoded)} bytes; at most {MAX_MESSAGE_BYTES} are sent")
    return encoded


def decode(data: bytes) -> Message:
    """The message of these bytes.

    Raises:
        ProtocolError: they are none.
    """
    header, _, strings = data.partition(b"\0")
    try:
        values = json.loads(header)
        message = _TYPES[values.pop("type")]
        for name in _TUPLES:
            if type(values.get(name)) is list:
                values[name] = tuple(values[name])
        if "phase" in values:
            values["phase"] = Phase(values["phase"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"no message: {data[:80]!r}") from error
    if message is Start:
        values["strings"] = strings
    known = {name: values[name] for name in message._fields if name in values}
    missing = [name for name in message._fields if name not in known and name not in message._field_defaults]
    if missing:
        raise ProtocolError(f"{_NAMES[message]} without {', '.join(missing)}")
    _check(message, {name: value for name, value in known.items() if name != "strings"})
    return message(**known)


def _check(message: type[Message], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        may_be_none = message._field_defaults.get(name, name) is None
        if not (_CHECKS[name](value) or (may_be_none and value is None)):
            raise ProtocolError(f"{name} cannot be {value!r:.80}")


class Command(NamedTuple):
    """What a child executes, as the kernel's bytes."""

    working_folder: bytes
    arguments: tuple[bytes, ...]
    environment: Mapping[bytes, bytes]


def pack_strings(working_folder: str, arguments: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """The strings of a `start`: arguments in UTF-8, in which clients send them, the rest in this host's encoding.

    Raises:
        ValueError: one contains NUL, or a name of the environment is empty or contains "=".
    """
    if any(not name or "=" in name for name in environment):
        raise ValueError("a name of the environment is empty or contains '='")
    words = [argument.encode("utf-8", "surrogateescape") for argument in arguments]
    assignments = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
    strings = (os.fsencode(working_folder), *words, *assignments)
    if any(b"\0" in string for string in strings):
        raise ValueError("a string contains NUL")
    return b"\0".join((*strings, b""))


def unpack_strings(data: bytes, argument_count: int) -> Command:
    """The command of a `start`.

    Raises:
        ProtocolError: there are fewer strings than that.
    """
    folder, *strings = data.split(b"\0")
    if len(strings) <= argument_count or strings[-1]:
        raise ProtocolError(f"{len(strings) - 1} strings, among them {argument_count} arguments")
    assignments = (text.partition(b"=") for text in strings[argument_count:-1])
    return Command(
        working_folder=folder,
        arguments=tuple(strings[:argument_count]),
        environment={name: value for name, _, value in assignments},
    )
