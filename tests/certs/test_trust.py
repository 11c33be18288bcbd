"""Whether a chain that was accepted once is still signed by an authority that is trusted."""

from __future__ import annotations

import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from jobmaster.certs.authority import AUTHORITY_LIFETIME, KeyPair, make_authority, make_client
from jobmaster.certs.trust import Authorities

NOW: Final = datetime.datetime.now(datetime.UTC)
OURS: Final = make_authority("jobmaster client authority", now=NOW)
OTHER: Final = make_authority("jobmaster client authority", now=NOW)
"""Of the same name, with another key."""
CLIENT: Final = make_client(OURS, "client1", now=NOW)


def der(pair: KeyPair) -> bytes:
    """A certificate."""
    return pair.certificate.public_bytes(serialization.Encoding.DER)


CHAIN: Final = [der(CLIENT), der(OURS)]


def renewed(pair: KeyPair) -> bytes:
    """The certificate of the same authority and key, made anew."""
    old = pair.certificate
    builder = x509.CertificateBuilder(
        issuer_name=old.issuer,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=old.not_valid_before_utc,
        not_valid_after=old.not_valid_after_utc,
        extensions=list(old.extensions),
    )
    return builder.sign(pair.key, hashes.SHA384()).public_bytes(serialization.Encoding.DER)


def test_the_same_authority() -> None:
    """As long as it is among those that are trusted, whatever else is there."""
    assert Authorities([der(OURS)]).trust(CHAIN, NOW)
    assert Authorities([b"no certificate", der(OTHER), der(OURS)]).trust(CHAIN, NOW)


def test_another_authority() -> None:
    """One of the same name with another key has not signed it; nor has nobody."""
    assert not Authorities([der(OTHER)]).trust(CHAIN, NOW)
    assert not Authorities([]).trust(CHAIN, NOW)
    assert not Authorities([b"no certificate"]).trust(CHAIN, NOW)


def test_a_renewed_authority() -> None:
    """Its key has signed the client's certificate."""
    new = renewed(OURS)
    assert new != der(OURS)
    assert Authorities([new]).trust(CHAIN, NOW)
    assert not Authorities([renewed(OTHER)]).trust(CHAIN, NOW)


def test_an_authority_whose_time_is_over() -> None:
    """It lets nobody in, and so keeps nobody."""
    assert not Authorities([der(OURS)]).trust(CHAIN, NOW + AUTHORITY_LIFETIME + datetime.timedelta(days=1))


def test_no_authority() -> None:
    """A client's own certificate among the authorities trusts nobody."""
    assert not Authorities([der(CLIENT)]).trust(CHAIN, NOW)
