"""How a client is called, in its certificate and everywhere else. Pure."""

from __future__ import annotations

import re
from typing import Final

from jobmaster.errors import ConfigurationError

COMMON_NAME_PREFIX: Final = "jobmaster-"
"""What the subject common name of each jobmaster certificate starts with; the rest is the name."""

_LONGEST_COMMON_NAME: Final = 64  # characters; RFC 5280 appendix A.1, ub-common-name-length
_LONGEST_NAME: Final = _LONGEST_COMMON_NAME - len(COMMON_NAME_PREFIX)
_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{_LONGEST_NAME - 1}}}")


def is_canonical(name: str) -> bool:
    """Whether `name` is a client's name as jobmaster writes it: lower-case letters, digits, inner hyphens, 1 to 54."""
    return _NAME.fullmatch(name) is not None


def require_canonical(name: str) -> None:
    """Raise :class:`ConfigurationError` unless `name` is a canonical name."""
    if not is_canonical(name):
        raise ConfigurationError(
            f"{name!r} is not a client name: use 1 to {_LONGEST_NAME} lower-case letters, digits and hyphens, "
            "a letter or digit first"
        )
