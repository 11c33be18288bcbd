"""gRPC over HTTP/2 on a Trio stream, behind the stream interface that purerpc's call wrappers and stubs speak.

Sans-io, bytes and values alone: `frames`, `header_blocks` (HPACK), `fields`, `streams`, `tolerance` and, of these,
`http2`; above it `headers` and `framing` for what is gRPC's. `connection` owns the socket: one reader, one writer,
back-pressure between them. `server` runs one cancellable handler task a call; `client` is the channel under a purerpc
stub. purerpc's own connection classes are not used: they wait for handlers whose client has left, swallow
cancellation and buffer without limit.
"""

from __future__ import annotations
