"""What the server asks of the kernel and of the host's configuration: accounts, processes, cgroups."""

from __future__ import annotations
