"""HOST:PORT as users write it on the command lines of the server and of the client."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Final, TypeVar

DEFAULT_PORT: Final = 6443

_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)

T = TypeVar("T")


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an IPv6 address is written in brackets. A host comes back in ASCII (RFC 3490).

    Raises:
        ValueError: it is no address; says how one is written.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or host in {"", "[]"} or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT with a port from 0 to 65535, such as localhost:{DEFAULT_PORT}")
    if ":" in host and not bracketed:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, such as [::1]:{DEFAULT_PORT}")
    return _in_ascii(host[1:-1] if bracketed else host), int(port)


def _in_ascii(host: str) -> str:
    """`host` as it is asked for in the DNS: what cannot be asked for would fail far from here, as a UnicodeError."""
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(
            f"{host!r} is no host name: its parts between dots have 1 to 63 characters, of the letters that names may have"
        ) from None


def argument(parse_text: Callable[[str], T]) -> Callable[[str], T]:
    """An argparse `type` that shows the text of a parser's ValueError instead of a fixed one."""

    def checked(text: str) -> T:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked
