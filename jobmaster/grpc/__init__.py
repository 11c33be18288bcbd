"""gRPC on an HTTP/2 connection, behind the stream interface of purerpc's services and stubs.

purerpc's own connection classes are not used: they wait for handlers whose client has left, swallow cancellation and
buffer without limit. What is used of purerpc is named in `purerpc_adapter`.
"""

from __future__ import annotations
