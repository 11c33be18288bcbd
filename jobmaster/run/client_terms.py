"""What the configuration says of one client, beside its role. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jobmaster.run.quotas import NO_QUOTA, Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTerms:
    """The terms of one client.

    Attributes:
        quota: how much of the server it may take.
        run_as: the user of its jobs; None: as of all clients.
    """

    quota: Quota = NO_QUOTA
    run_as: str | None = None


COMMON_TERMS: Final = ClientTerms()
"""Of a client of which nothing is said."""
