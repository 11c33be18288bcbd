"""Bytes between peers: TCP, TLS, pending bytes and the lifetime of a connection."""

from __future__ import annotations
