"""Roles and permission. Pure: no file, no clock, no network."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from typing import Final, assert_never

from jobmaster.errors import CertificateRefused, ConfigurationError
from jobmaster.identity.names import require_canonical


class Role(enum.Enum):
    """What a client is allowed: a user its own jobs, an admin everyone's."""

    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An authenticated client: its canonical name and its role.

    Raises:
        ConfigurationError: The name is not canonical.
    """

    name: str
    role: Role

    def __post_init__(self) -> None:
        require_canonical(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The clients this server knows. Who is not in it is refused, whoever signed the certificate.

    Raises:
        ConfigurationError: A name is there twice.
    """

    identities: frozenset[Identity]

    def __post_init__(self) -> None:
        names = Counter(identity.name for identity in self.identities)
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise ConfigurationError(f"the policy gives more than one role to {', '.join(twice)}: leave one for each")

    def identify(self, name: str) -> Identity:
        """Return the identity called `name`, whatever its case.

        Only ASCII letters are folded: Unicode has characters whose lower case is an ASCII letter (U+212A KELVIN
        SIGN becomes ``k``), and a name written with one is another name.

        Raises:
            CertificateRefused: The policy does not know the name.
        """
        canonical = name.lower() if name.isascii() else name
        for identity in self.identities:
            if identity.name == canonical:
                return identity
        raise CertificateRefused(f"the policy knows no client named {name!r}")


DEFAULT_POLICY: Final = Policy(
    identities=frozenset(
        {
            Identity(name="client1", role=Role.USER),
            Identity(name="client2", role=Role.USER),
            Identity(name="client3", role=Role.USER),
            Identity(name="superuser", role=Role.ADMIN),
        }
    )
)
"""The clients of a server that was given no other policy."""


def may_touch(identity: Identity, owner_name: str) -> bool:
    """Whether `identity` may see and stop a job that `owner_name` (a canonical name) started."""
    match identity.role:
        case Role.ADMIN:
            return True
        case Role.USER:
            return identity.name == owner_name
        case _:
            assert_never(identity.role)
