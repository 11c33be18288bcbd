"""From a leaf certificate to an identity. Pure: bytes in, a value or a refusal out.

Theory of operation
-------------------
OpenSSL has verified the chain, the validity period and the possession of the key before this module is asked. It
leaves things open that decide who may run commands as root: it accepts a client certificate *without* an extended
key usage, RSA keys of 2048 bits and SHA-224 signatures (all at security level 2), and it knows nothing of names.
Those are judged here, and here alone.

Only the leaf is read. A client may append any certificate to the chain it presents, an administrator's public one
too, and possession of the key is proven for the leaf alone.

Reading and judging are apart: :func:`read_certificate` is the single place where bytes of a stranger meet the
parser and where each of its failures becomes a refusal; :func:`identify` judges plain values.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from jobmaster.errors import CertificateRefused
from jobmaster.identity.names import COMMON_NAME_PREFIX

if TYPE_CHECKING:
    import datetime

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from jobmaster.identity.policy import Identity, Policy

ACCEPTED_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
"""Hashes a certificate may be signed with; an Ed25519 signature names none and is accepted too."""

ACCEPTED_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
"""Curves an ECDSA key may be on, as cryptography calls them and as NIST does."""

SMALLEST_RSA_KEY: Final = 3072
"""Bits of the smallest RSA key accepted: the strength of P-256 (NIST SP 800-57 part 1, table 2)."""

_ED25519_SIGNATURE: Final = "Ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A public key, as far as it is judged and shown: whether it is strong enough, and what to call it."""

    accepted: bool
    description: str


class Validity(enum.Enum):
    """Where a moment lies to a certificate's validity period (RFC 5280, 4.1.2.5: both ends belong to it)."""

    NOT_YET = "not yet valid"
    VALID = "valid"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What is read from one certificate. `extended_key_usages` is None when the extension is absent."""

    serial: int
    signature: str
    key: Key
    extended_key_usages: frozenset[x509.ObjectIdentifier] | None
    is_authority: bool
    common_names: tuple[str, ...]
    subject: str
    not_before: datetime.datetime
    not_after: datetime.datetime

    def validity(self, now: datetime.datetime) -> Validity:
        """Whether the certificate is valid at `now` (aware), and if not, on which side."""
        if now < self.not_before:
            return Validity.NOT_YET
        return Validity.EXPIRED if now > self.not_after else Validity.VALID


def read_certificate(der: bytes) -> CertificateFacts:
    """Read the facts of one DER certificate.

    Raises:
        CertificateRefused: The bytes are not a certificate, or a part of it that is judged cannot be read.
    """
    try:
        return _read(x509.load_der_x509_certificate(der))
    except CertificateRefused:
        raise
    except Exception as error:  # the parser raises many types; whatever it is, nobody is identified
        raise CertificateRefused(f"the certificate cannot be read: {error!r}") from error


def identify(der: bytes, policy: Policy) -> Identity:
    """Return the client that the leaf certificate `der` speaks for.

    The chain, the validity period and the possession of the key are TLS's to verify, and are not looked at.

    Raises:
        CertificateRefused: The certificate identifies nobody; the text says why.
    """
    facts = read_certificate(der)
    _require_accepted_signature(facts.signature)
    _require_accepted_key(facts.key)
    _require_client_usage(facts)
    return policy.identify(_name(facts.common_names))


def valid_until(der: bytes) -> datetime.datetime:
    """Return the moment (UTC, aware) after which the certificate is no longer valid.

    Raises:
        CertificateRefused: The bytes are not a certificate.
    """
    return read_certificate(der).not_after


def names_of(der: bytes) -> tuple[str | None, str]:
    """The serial number of a certificate, None where it cannot be read, and its SHA-256 fingerprint; both hexadecimal."""
    fingerprint = hashlib.sha256(der).hexdigest()
    try:
        return f"{read_certificate(der).serial:x}", fingerprint
    except CertificateRefused:
        return None, fingerprint


def _require_accepted_signature(signature: str) -> None:
    if signature != _ED25519_SIGNATURE and signature not in ACCEPTED_HASHES:
        raise CertificateRefused(
            f"the certificate is signed with {signature}: {', '.join(sorted(ACCEPTED_HASHES))} or Ed25519 is needed"
        )


def _require_accepted_key(key: Key) -> None:
    if not key.accepted:
        raise CertificateRefused(
            f"the certificate's key is {key.description}: ECDSA on {', '.join(ACCEPTED_CURVES.values())}, Ed25519 or "
            f"RSA of {SMALLEST_RSA_KEY} bits or more is needed"
        )


def _require_client_usage(facts: CertificateFacts) -> None:
    if facts.is_authority:
        raise CertificateRefused("the certificate is an authority's: a client needs one of its own")
    if facts.extended_key_usages is None:
        raise CertificateRefused("the certificate has no extended key usage: clientAuth is needed")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in facts.extended_key_usages:
        raise CertificateRefused("the certificate's extended key usage does not name clientAuth")


def _name(common_names: tuple[str, ...]) -> str:
    if len(common_names) != 1:
        raise CertificateRefused(f"the certificate's subject has {len(common_names)} common names: one is needed")
    name = common_names[0].removeprefix(COMMON_NAME_PREFIX)
    if name in {"", common_names[0]}:
        raise CertificateRefused(f"the common name {common_names[0]!r} is not of the form {COMMON_NAME_PREFIX}<name>")
    return name


def _read(certificate: x509.Certificate) -> CertificateFacts:
    extensions = certificate.extensions
    return CertificateFacts(
        serial=certificate.serial_number,
        signature=_signature(certificate),
        key=_key(certificate.public_key()),
        extended_key_usages=_extended_key_usages(extensions),
        is_authority=_is_authority(extensions),
        common_names=tuple(_text(name) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)),
        subject=certificate.subject.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _signature(certificate: x509.Certificate) -> str:
    if certificate.signature_algorithm_oid == SignatureAlgorithmOID.ED25519:
        return _ED25519_SIGNATURE
    algorithm = certificate.signature_hash_algorithm
    return "no hash" if algorithm is None else algorithm.name


def _key(key: CertificatePublicKeyTypes) -> Key:
    match key:
        case ec.EllipticCurvePublicKey():
            accepted = key.curve.name in ACCEPTED_CURVES
            return Key(accepted=accepted, description=f"ECDSA {ACCEPTED_CURVES.get(key.curve.name, key.curve.name)}")
        case rsa.RSAPublicKey():
            return Key(accepted=key.key_size >= SMALLEST_RSA_KEY, description=f"RSA {key.key_size}")
        case ed25519.Ed25519PublicKey():
            return Key(accepted=True, description="Ed25519")
        case ed448.Ed448PublicKey():
            return Key(accepted=False, description="Ed448")
        case _:
            return Key(accepted=False, description="of another type")


def _extended_key_usages(extensions: x509.Extensions) -> frozenset[x509.ObjectIdentifier] | None:
    try:
        return frozenset(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return None


def _is_authority(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _text(common_name: x509.NameAttribute[str | bytes]) -> str:
    if isinstance(common_name.value, bytes):
        raise CertificateRefused("the certificate's common name is not text")
    return common_name.value
