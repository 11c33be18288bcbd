"""jobmaster runs commands on another Linux machine and tells the truth about how they ended."""

from __future__ import annotations

__version__ = "0.1.0"
