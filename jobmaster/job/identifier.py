"""Job ids: KSUIDs, 27 characters of base 62 that sort by time of creation.

A KSUID is 20 bytes: a big-endian count of seconds since 2014-05-13T16:53:20Z, and 128 random bits.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Final, NewType

JobId = NewType("JobId", str)

_EPOCH: Final = 1_400_000_000
_LAST_SECOND: Final = 2**32 - 1
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH: Final = 27
_FORM: Final = re.compile(r"[0-9A-Za-z]{27}", re.ASCII)


def new_job_id() -> JobId:
    """A fresh id for a job created now; where the clock shows a time that KSUIDs do not have, the nearest they have."""
    seconds = int(time.time()) - _EPOCH
    return encode(min(max(seconds, 0), _LAST_SECOND), secrets.token_bytes(16))


def encode(seconds: int, payload: bytes) -> JobId:
    """The KSUID of `seconds` since the KSUID epoch and 16 bytes of payload."""
    number = int.from_bytes(seconds.to_bytes(4, "big") + payload, "big")
    digits = []
    for _ in range(_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return JobId("".join(reversed(digits)))


def parse_job_id(text: str) -> JobId | None:
    """`text` as a job id, or None where it cannot be one."""
    return JobId(text) if _FORM.fullmatch(text) else None
