"""The server program: its options, its listener and the order of its shutdown."""

from __future__ import annotations
