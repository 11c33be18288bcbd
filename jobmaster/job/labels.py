"""What a caller calls a job: a name and labels, which nothing depends on but who looks for it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from jobmaster.errors import InvalidRequest

MOST_NAME: Final = 128
"""Characters of a name."""
MOST_LABELS: Final = 32
MOST_VALUE: Final = 255
"""Characters of a label's value."""
MOST_BYTES: Final = 4096
"""Of all labels of a job together, in UTF-8: a record keeps them."""
_KEY: Final = re.compile(r"[a-z0-9._/-]{1,63}", re.ASCII)

Labels = tuple[tuple[str, str], ...]
"""Keys and values, in the order of the keys, each of which is there once."""


def check_name(name: str, field: str = "name") -> None:
    """Looks whether a job can be called so.

    Raises:
        InvalidRequest: it cannot.
    """
    if len(name) > MOST_NAME or not name.isprintable() or (name and not name.strip()):
        raise InvalidRequest(f"a job's name is 1 to {MOST_NAME} printable characters", field=field)


def checked_labels(pairs: Iterable[tuple[str, str]], field: str = "labels") -> Labels:
    """The labels that these are, with each key once.

    Raises:
        InvalidRequest: they are too many, or too large; or one is none, which is named.
    """
    labels = tuple(sorted(pairs))
    if len(labels) > MOST_LABELS:
        raise InvalidRequest(f"more than {MOST_LABELS} labels", field=field)
    for key, value in labels:
        if _KEY.fullmatch(key) is None:
            raise InvalidRequest(
                f"{key[:80]!r} is no key of a label: it has 1 to 63 of a-z, 0-9 and ._/-", field=f"{field}[{key[:80]}]"
            )
        if len(value) > MOST_VALUE or not value.isprintable():
            raise InvalidRequest(
                f"the value of the label {key!r} is {MOST_VALUE} printable characters at most", field=f"{field}[{key}]"
            )
    if sum(len(key) + len(value.encode("utf-8", "surrogateescape")) for key, value in labels) > MOST_BYTES:
        raise InvalidRequest(f"all labels together are {MOST_BYTES} bytes at most", field=field)
    return labels
