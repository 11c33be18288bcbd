"""Messages with descriptors over a SOCK_SEQPACKET pair, without blocking: used at both of its ends."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from jobmaster.launcher.protocol import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES, Message, ProtocolError, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class Received(NamedTuple):
    """A message and the descriptors that came with it, the receiver's own. `is_cut`: some could not be opened."""

    message: Message
    descriptors: tuple[int, ...]
    is_cut: bool


class EndOfFile(Exception):
    """The other end is closed and every message was read."""


def receive(sock: socket.socket) -> Received:
    """Reads one message.

    Raises:
        BlockingIOError: there is none by now.
        EndOfFile: there will be none.
        ProtocolError: it is unintelligible; its descriptors were closed.
        OSError: ECONNRESET once where the peer died with unread messages: go on reading.
    """
    how = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    data, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE_BYTES, _ANCILLARY_BYTES, how)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if not data and not descriptors:
        raise EndOfFile
    try:
        if flags & socket.MSG_TRUNC:
            raise ProtocolError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
        message = decode(data)
    except ProtocolError:
        close_all(descriptors)
        raise
    return Received(message=message, descriptors=tuple(descriptors), is_cut=bool(flags & socket.MSG_CTRUNC))


def send(sock: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    """Sends one encoded message; raises what sendmsg(2) does, BlockingIOError where that would wait."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def close_all(descriptors: Sequence[int]) -> None:
    """Closes descriptors, whatever their files answer."""
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
