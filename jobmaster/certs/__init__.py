"""The certificates by which clients and the server know each other: authorities, files and TLS contexts."""

from __future__ import annotations
