"""HTTP/2 by bytes alone (RFC 9113, RFC 7541): frames, header blocks, streams and flow control; no sockets, no event loop."""

from __future__ import annotations
