"""The gRPC API: `listener` takes connections, `service` answers calls, `messages` and `statuses` translate."""

from __future__ import annotations
