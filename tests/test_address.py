"""Addresses as users write them."""

from __future__ import annotations

import argparse

import pytest

from jobmaster.address import argument, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:6443", ("localhost", 6443)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("[::1]:6443", ("::1", 6443)),
        ("[::]:80", ("::", 80)),
        ("host.example:00080", ("host.example", 80)),
        ("host.example.:80", ("host.example.", 80)),
        ("bücher.example:80", ("xn--bcher-kva.example", 80)),
        ("a" * 63 + ":80", ("a" * 63, 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """Host and port come apart at the last colon; brackets of IPv6 go."""
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":6443",
        "localhost",
        "localhost:",
        "localhost:-1",
        "localhost:65536",
        "localhost:http",
        "localhost:٦",
        "localhost:²",
        "localhost: 80",
        "::1:6443",
        "::1",
        "[::1]",
        "[]:6443",
        "localhost:" + "9" * 5000,
    ],
)
def test_no_addresses(text: str) -> None:
    """What is no HOST:PORT is refused, with how it is written."""
    with pytest.raises(ValueError, match=r"such as .*:6443"):
        parse_address(text)


@pytest.mark.parametrize("host", ["a..b", ".example", "a" * 64, "\udcff", "\u2019" * 64])
def test_hosts_that_nobody_can_ask_for(host: str) -> None:
    """A host that the DNS has no form for is refused by name, and not by a UnicodeError where it is looked up."""
    with pytest.raises(ValueError, match="is no host name"):
        parse_address(f"{host}:80")


def test_argument_says_why() -> None:
    """Argparse is given the parser's own words; a value that is right comes back as it is."""
    with pytest.raises(argparse.ArgumentTypeError, match="'x' is not HOST:PORT"):
        argument(parse_address)("x")
    assert argument(parse_address)("x:1") == ("x", 1)
