"""Whether a connection that was accepted under earlier authorities would be accepted under those of now.

Its chain was verified as a whole in the handshake. Under other authorities it is verified if one of those, which is valid
now, is in the chain, or has signed a certificate of it: an authority that was renewed with its key keeps its clients.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from jobmaster.errors import CertificateRefused
from jobmaster.identity.certificate import Validity, read_certificate

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable, Sequence

    from jobmaster.identity.certificate import CertificateFacts


class Authorities:
    """Those that sign clients' certificates.

    Args:
        certificates: in DER; one that cannot be read has signed nothing.
    """

    def __init__(self, certificates: Iterable[bytes]) -> None:
        self._facts: dict[bytes, CertificateFacts] = {}
        for der in certificates:
            with suppress(CertificateRefused):
                self._facts[der] = read_certificate(der)

    def trust(self, chain: Sequence[bytes], now: datetime.datetime) -> bool:
        """Whether a chain that was verified once, the leaf first, is still good; a signature takes a millisecond."""
        valid = {
            der for der, facts in self._facts.items() if facts.is_authority and facts.validity(now) is Validity.VALID
        }
        return not valid.isdisjoint(chain[1:]) or any(_has_signed(each, der) for der in chain for each in valid)


def _has_signed(authority: bytes, der: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(der).verify_directly_issued_by(x509.load_der_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):  # of another name, with a key of another kind, or not by this key
        return False
    return True
