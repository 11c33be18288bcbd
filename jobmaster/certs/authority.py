"""The two certificate authorities and what they sign.

One authority signs the server's certificate and another the clients', so that no client's certificate can ever pass
for the server's, nor the server's for a client's. Keys are ECDSA on P-384 and signatures ECDSA with SHA-384.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jobmaster.certs.folder import CLIENT_AUTHORITY, SERVER, SERVER_AUTHORITY, certificate_path, key_path
from jobmaster.certs.key_files import read
from jobmaster.certs.writing import NewFile, write_all
from jobmaster.errors import ConfigurationError
from jobmaster.identity.names import COMMON_NAME_PREFIX, require_canonical
from jobmaster.identity.policy import DEFAULT_POLICY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

AUTHORITY_LIFETIME: Final = datetime.timedelta(days=3650)
LEAF_LIFETIME: Final = datetime.timedelta(days=365)

CLOCK_TOLERANCE: Final = datetime.timedelta(minutes=5)
"""How long ago a new certificate's validity begins, for peers whose clock is behind."""

DEFAULT_CLIENTS: Final = tuple(sorted(identity.name for identity in DEFAULT_POLICY.identities))
"""The clients that :func:`initialise` makes certificates for."""

_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate and the private key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        if self.certificate.public_key() != self.key.public_key():
            raise ConfigurationError("the private key does not belong to the certificate")


def initialise(folder: Path, *, force: bool = False, hosts: Iterable[str] | None = None) -> tuple[Path, ...]:
    """Make both authorities, the server's certificate and the default clients'; write all of them into `folder`.

    Args:
        folder: Made with mode 0700 if missing, and made private if it is not.
        force: Replace what is there. Certificates of the authorities before are then worth nothing.
        hosts: Names and addresses the server is reached by beside localhost, 127.0.0.1 and ::1; by default
            :func:`names_of_this_host`.

    Returns:
        The files written, certificates and keys.

    Raises:
        ConfigurationError: A file exists and `force` is not given, or the folder or a host cannot be used.
        HostError: The host did not write a file; nothing new is left.
    """
    now = datetime.datetime.now(datetime.UTC)
    server_authority = make_authority("jobmaster server authority", now=now)
    client_authority = make_authority("jobmaster client authority", now=now)
    reached_by = names_of_this_host() if hosts is None else hosts
    pairs = {
        SERVER_AUTHORITY: server_authority,
        CLIENT_AUTHORITY: client_authority,
        SERVER: make_server(server_authority, SERVER, reached_by, now=now),
        **{name: make_client(client_authority, name, now=now) for name in DEFAULT_CLIENTS},
    }
    return write_all(folder, [file for who, pair in pairs.items() for file in _files(folder, who, pair)], force=force)


def issue(folder: Path, name: str, *, force: bool = False) -> tuple[Path, ...]:
    """Make a certificate and key for the client `name`, signed by the client authority of `folder`.

    Returns:
        The certificate's file and the key's.

    Raises:
        ConfigurationError: The name is not canonical or is the server's, a file exists and `force` is not given, or
            the authority is missing, unsound or expired.
        HostError: The host did not write a file; nothing new is left.
    """
    require_canonical(name)
    if name == SERVER:
        raise ConfigurationError(f"{SERVER} is the server's own name: choose another for the client")
    authority = load_pair(folder, CLIENT_AUTHORITY)
    pair = make_client(authority, name, now=datetime.datetime.now(datetime.UTC))
    return write_all(folder, _files(folder, name, pair), force=force)


def load_pair(folder: Path, who: str) -> KeyPair:
    """Load the certificate and key of `who` from `folder`.

    Raises:
        ConfigurationError: A file is missing or unsound, or they do not belong together.
    """
    certificate_file, key_file = certificate_path(folder, who), key_path(folder, who)
    try:
        certificate = x509.load_pem_x509_certificate(read(certificate_file))
    except ValueError as error:
        raise ConfigurationError(f"{certificate_file} holds no certificate in PEM: {error}") from error
    try:
        key = serialization.load_pem_private_key(read(key_file, secret=True), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise ConfigurationError(f"{key_file} holds no unencrypted private key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{key_file} holds no ECDSA key: jobmaster signs with ECDSA alone")
    if certificate.public_key() != key.public_key():
        raise ConfigurationError(f"{key_file} does not belong to {certificate_file}: put the right one of each there")
    return KeyPair(certificate=certificate, key=key)


def make_authority(common_name: str, *, now: datetime.datetime) -> KeyPair:
    """Make a self-signed authority that may sign leaves, and no further authority."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        _builder(subject, key, now=now, until=now + AUTHORITY_LIFETIME)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return KeyPair(certificate=builder.sign(key, hashes.SHA384()), key=key)


def make_server(authority: KeyPair, name: str, hosts: Iterable[str], *, now: datetime.datetime) -> KeyPair:
    """Make a server's certificate for localhost, 127.0.0.1, ::1 and `hosts` (names and addresses).

    Raises:
        ConfigurationError: One of `hosts` is neither a host name nor an address, or the authority has expired.
    """
    names = dict.fromkeys(_general_name(host) for host in ("localhost", "127.0.0.1", "::1", *hosts))
    reached_by = x509.SubjectAlternativeName(list(names))
    return _make_leaf(authority, name, ExtendedKeyUsageOID.SERVER_AUTH, now=now, reached_by=reached_by)


def make_client(authority: KeyPair, name: str, *, now: datetime.datetime) -> KeyPair:
    """Make a client's certificate.

    Raises:
        ConfigurationError: The authority has expired.
    """
    return _make_leaf(authority, name, ExtendedKeyUsageOID.CLIENT_AUTH, now=now)


def names_of_this_host() -> tuple[str, ...]:
    """Return the names this host gives itself, without those no certificate can hold. May ask the host's resolver."""
    names = dict.fromkeys((socket.gethostname(), socket.getfqdn()))
    return tuple(name for name in names if _HOST_NAME.fullmatch(name))


def _make_leaf(
    authority: KeyPair,
    name: str,
    usage: x509.ObjectIdentifier,
    *,
    now: datetime.datetime,
    reached_by: x509.SubjectAlternativeName | None = None,
) -> KeyPair:
    until = min(now + LEAF_LIFETIME, authority.certificate.not_valid_after_utc)
    if until <= now:
        raise ConfigurationError(
            f"the authority expired at {until:%Y-%m-%d %H:%M} UTC: make new ones with init --force"
        )
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME_PREFIX + name)])
    builder = (
        _builder(subject, key, now=now, until=until)
        .issuer_name(authority.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(_authority_key_identifier(authority.certificate), critical=False)
    )
    if reached_by is not None:
        builder = builder.add_extension(reached_by, critical=False)
    return KeyPair(certificate=builder.sign(authority.key, hashes.SHA384()), key=key)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, now: datetime.datetime, until: datetime.datetime
) -> x509.CertificateBuilder:
    """Begin a certificate with all that does not depend on who signs it."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Repeat the authority's own identifier: one made elsewhere need not be the hash that we would compute."""
    try:
        identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        raise ConfigurationError("the authority's certificate has no subject key identifier") from None
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:  # not an address, so a name
        if _HOST_NAME.fullmatch(host) is None:
            raise ConfigurationError(f"{host!r} is neither a host name nor an IP address") from None
        return x509.DNSName(host)


def _files(folder: Path, who: str, pair: KeyPair) -> tuple[NewFile, NewFile]:
    certificate = pair.certificate.public_bytes(serialization.Encoding.PEM)
    key = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (
        NewFile(name=certificate_path(folder, who).name, content=certificate, secret=False),
        NewFile(name=key_path(folder, who).name, content=key, secret=True),
    )
