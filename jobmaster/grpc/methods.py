"""The methods of a server's services, and the bounds on their requests before these are parsed.

A few bytes on the wire can become many objects. So a handler may be marked with `@checked(check)`: the check gets the
serialized message, raises where it is refused, and returns what the parsed message holds in memory, in bytes, which is
counted until the call has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from jobmaster.grpc.purerpc_adapter import Cardinality

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from jobmaster.grpc.purerpc_adapter import Service
    from jobmaster.grpc.watch import Admission

RequestCheck = Callable[[bytes], int]

_TAKES_CALL: Final = "_jobmaster_takes_call"
_LASTS: Final = "_jobmaster_lasts"
_TAKES_ADMISSION: Final = "_jobmaster_takes_admission"

_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_SHORT_BYTES: Final = 0x02
"""Of the first byte of a field, the bits that say: its key has one byte, and it is length-delimited."""
_ATTRIBUTE: Final = "_jobmaster_request_check"


def checked(check: RequestCheck) -> Callable[[_Handler], _Handler]:
    """Has a handler's requests checked before they are parsed; a handler that takes the caller as well as the request."""

    def mark(handler: _Handler) -> _Handler:
        setattr(handler, _ATTRIBUTE, check)
        return handler

    return mark


def takes_call(handler: _Handler) -> _Handler:
    """Has a handler called with the call itself in place of requests: it receives and sends in whatever order it likes.

    Tasks of one call send one after the other.
    """
    setattr(handler, _TAKES_CALL, True)
    return handler


def lasting(handler: _Handler) -> _Handler:
    """Has the calls of a unary handler counted as those that last, as all streams are."""
    setattr(handler, _LASTS, True)
    return handler


def takes_admission(handler: _Handler) -> _Handler:
    """Has a unary handler called before its call is admitted, with an `Unadmitted` in place of the request."""
    setattr(handler, _TAKES_ADMISSION, True)
    return handler


class Unadmitted(NamedTuple):
    """A request, and what its handler awaits before anything takes effect that cannot be undone; None: nothing."""

    request: Any
    admission: Admission | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method: `handler` is called with the request and the caller, `check` before the request is parsed.

    Attributes:
        takes_call: the handler gets the call in place of the request.
        takes_admission: the handler gets an `Unadmitted` in place of the request.
        lasts: its calls are open for as long as something lasts; of these, fewer may be open than of all.
    """

    handler: Callable[..., Any]
    cardinality: Cardinality
    request_type: type[Message]
    check: RequestCheck
    takes_call: bool = False
    takes_admission: bool = False
    lasts: bool = False


def methods_of(services: Mapping[str, Service]) -> Mapping[tuple[str, str], Method]:
    """All methods by the names of service and method. Without a check, a request counts as its own bytes."""
    return {
        (service_name, name): Method(
            handler=bound.method_fn,
            cardinality=bound.signature.cardinality,
            request_type=bound.signature.request_type,
            check=getattr(bound.method_fn, _ATTRIBUTE, len),
            takes_call=getattr(bound.method_fn, _TAKES_CALL, False),
            takes_admission=getattr(bound.method_fn, _TAKES_ADMISSION, False),
            lasts=getattr(bound.method_fn, _LASTS, bound.signature.cardinality is not Cardinality.UNARY_UNARY),
        )
        for service_name, service in services.items()
        for name, bound in service.methods.items()
    }


def count_fields(serialized: bytes, most: int, number: int = 0) -> tuple[int, int]:
    """How many fields of a message there are at its top level, and how many bytes are those of one kind of them.

    Args:
        serialized: the message.
        most: more than so many are not counted further.
        number: of the fields whose bytes are counted.

    Raises:
        DecodeError: the bytes are no protobuf message.
    """
    count = found = position = 0
    end = len(serialized)
    counted = number << 3 | _SHORT_BYTES
    while position < end and count <= most:
        count += 1
        first = serialized[position]
        if first & 0x87 == _SHORT_BYTES and first != counted and position + 1 < end and serialized[position + 1] < 0x80:
            position += 2 + serialized[position + 1]
            continue
        key, behind = _field(serialized, position)
        found += behind - position if key >> 3 == number else 0
        position = behind
    if position > end:
        raise DecodeError("truncated message")
    return count, found


def _field(serialized: bytes, position: int) -> tuple[int, int]:
    """The key of the field that begins there, and the position behind its value."""
    key, position = _varint(serialized, position)
    match key & 7:
        case 0:
            _, position = _varint(serialized, position)
        case 1:
            position += 8
        case 2:
            length, position = _varint(serialized, position)
            position += length
        case 5:
            position += 4
        case _:
            raise DecodeError("a wire type that is not used")
    return key, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A varint of at most ten bytes, and the position behind it."""
    value = shift = 0
    for byte in data[position : position + 10]:
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise DecodeError("truncated message")
