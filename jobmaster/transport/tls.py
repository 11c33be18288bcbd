"""TLS records in fewer steps than one by one.

trio.SSLStream asks its TLS object for one read or write in each turn of the event loop. Of which class that object is,
a context may say (`ssl.SSLContext.sslobject_class`); with this one, a read takes what further records have arrived, and
a buffer is free for others as soon as its bytes are encrypted.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from jobmaster.transport import buffers

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

RECORD_SIZE: Final = 16 * 1024
"""Bytes of one TLS record, at most (RFC 8446, 5.1); after a full one there are likely to be more."""


class TlsObject(ssl.SSLObject):
    """See the module. trio.SSLStream uses it as any `ssl.SSLObject`."""

    def read(self, len: int = 1024, buffer: WriteableBuffer | None = None) -> bytes:  # noqa: A002  # as in the library
        """Up to `len` bytes, of one record or of several."""
        data = super().read(len, buffer)
        if buffer is not None or data.__len__() < RECORD_SIZE:
            return data
        records = [data]
        left = len - RECORD_SIZE
        with suppress(ssl.SSLError):  # no more has come, or an end that the next read will meet too
            while left and (record := super().read(left)):
                records.append(record)
                left -= record.__len__()
        return b"".join(records)

    def write(self, data: ReadableBuffer) -> int:
        """Encrypts bytes. A bytearray is no longer the caller's afterwards."""
        count = super().write(data)
        if isinstance(data, bytearray):
            buffers.give_back(data)
        return count


def in_fewer_steps(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, whose TLS objects are such."""
    context.sslobject_class = TlsObject
    return context
