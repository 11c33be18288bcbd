"""The TLS of both sides, and who the peer of a finished handshake is.

Theory of operation
-------------------
Both sides speak TLS 1.3 and nothing else, trust one authority each and not the host's store, and do not take over
what the distribution's OpenSSL configuration says of the security level: at level 0 a SHA-1 signature would pass.

The server issues no session tickets. A resumed session is not verified again, so that with tickets a client whose
certificate has expired would still get in.

What OpenSSL does not refuse in a handshake, :func:`peer_identity` refuses after it: it has to be asked before the
first byte of a connection is served. Unlike a missing certificate, a missing ALPN agreement lets a handshake succeed.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from jobmaster.certs.folder import CLIENT_AUTHORITY, SERVER, SERVER_AUTHORITY, certificate_path, key_path
from jobmaster.certs.key_files import REPLACE_THEM, content_of, opened, path_of, read
from jobmaster.errors import CertificateRefused, ConfigurationError
from jobmaster.identity.certificate import identify
from jobmaster.identity.policy import require_canonical

if TYPE_CHECKING:
    from pathlib import Path

    import trio

    from jobmaster.identity.policy import Identity, Policy

ALPN_PROTOCOL: Final = "h2"
"""HTTP/2 over TLS (RFC 9113 section 3.2), the one protocol that gRPC speaks."""

CIPHERS: Final = "DEFAULT:@SECLEVEL=2"
"""OpenSSL cipher string; of it only the security level means anything to TLS 1.3 (112 bits of security or more)."""


def server_context(folder: Path) -> ssl.SSLContext:
    """Return the server's TLS context, made from the files of `folder`.

    Raises:
        ConfigurationError: A file is missing, unsound or not what it has to be; the text names it and the remedy.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    _trust(context, certificate_path(folder, CLIENT_AUTHORITY))
    _present(context, certificate_path(folder, SERVER), key_path(folder, SERVER))
    return context


def client_context(folder: Path, name: str) -> ssl.SSLContext:
    """Return the TLS context of the client `name`, made from the files of `folder`.

    Raises:
        ConfigurationError: The name is not canonical, or a file is missing, unsound or not what it has to be.
    """
    require_canonical(name)
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    context.hostname_checks_common_name = False
    _trust(context, certificate_path(folder, SERVER_AUTHORITY))
    _present(context, certificate_path(folder, name), key_path(folder, name))
    return context


def peer_identity(tls: ssl.SSLObject | trio.SSLStream[Any], policy: Policy) -> Identity:
    """Return the client at the other end of `tls`, whose handshake is done.

    Raises:
        CertificateRefused: The client did not agree on HTTP/2, or its certificate identifies nobody.
    """
    agreed = tls.selected_alpn_protocol()
    if agreed != ALPN_PROTOCOL:
        raise CertificateRefused(f"the client agreed on {agreed or 'no protocol'} by ALPN: {ALPN_PROTOCOL} is needed")
    leaf = tls.getpeercert(binary_form=True)
    if leaf is None:
        raise CertificateRefused("the client sent no certificate")
    return identify(leaf, policy)


def _context(side: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.post_handshake_auth = False
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([ALPN_PROTOCOL])
    return context


def _trust(context: ssl.SSLContext, authority_file: Path) -> None:
    """Trust the authority in `authority_file`; nothing else is trusted, for no default is ever loaded."""
    certificates = _certificates(authority_file, read(authority_file))
    context.load_verify_locations(cadata=b"".join(map(_der, certificates)))
    if not context.get_ca_certs():
        raise ConfigurationError(f"{authority_file} holds no authority's certificate: {REPLACE_THEM}")


def _present(context: ssl.SSLContext, certificate_file: Path, key_file: Path) -> None:
    """Present the certificate of one file, with the key of the other. An encrypted key asks no terminal."""

    def refuse_to_ask() -> NoReturn:
        raise ConfigurationError(f"{key_file} is encrypted: put an unencrypted key there, readable by its owner alone")

    with opened(certificate_file) as certificate, opened(key_file, secret=True) as key:
        _certificates(certificate_file, content_of(certificate))  # so that a refusal names the right file of the two
        try:
            context.load_cert_chain(path_of(certificate), path_of(key), password=refuse_to_ask)
        except ssl.SSLError as error:
            raise ConfigurationError(_why_unusable(error, certificate_file, key_file)) from error


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _certificates(file: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigurationError(f"{file} holds no sound certificate in PEM: {REPLACE_THEM}") from error


def _why_unusable(error: ssl.SSLError, certificate_file: Path, key_file: Path) -> str:
    match error.reason:
        case "KEY_VALUES_MISMATCH":
            return f"{key_file} does not belong to {certificate_file}: {REPLACE_THEM}"
        case "EE_KEY_TOO_SMALL" | "CA_KEY_TOO_SMALL" | "CA_MD_TOO_WEAK":
            return f"{certificate_file} is too weak ({error.reason}): {REPLACE_THEM}"
        case _:
            return f"{key_file} holds no usable private key in PEM: {REPLACE_THEM}"
