"""TLS contexts from the files of a certificate folder, by the standard library's ssl alone.

Theory of operation
-------------------
Both sides speak TLS 1.3 and nothing else, trust one authority each and not the host's store, and do not take over
what the distribution's OpenSSL configuration says of the security level: at level 0 a SHA-1 signature would pass.

What cryptography could tell of a certificate is the server's to ask (:mod:`jobmaster.certs.contexts`): importing it
costs a client a quarter of the time that a call takes from the command line. Whether a file holds sound certificates,
ssl says as well: it parses them when it is to trust them, in a context that is made for that and dropped.
"""

from __future__ import annotations

import binascii
import re
import ssl
from typing import TYPE_CHECKING, Final, NoReturn

from jobmaster.certs.folder import SERVER_AUTHORITY, certificate_path, key_path
from jobmaster.certs.key_files import REPLACE_THEM, content_of, opened, path_of, read
from jobmaster.errors import ConfigurationError
from jobmaster.identity.names import require_canonical

if TYPE_CHECKING:
    from pathlib import Path

ALPN_PROTOCOL: Final = "h2"
"""HTTP/2 over TLS (RFC 9113 section 3.2), the one protocol that gRPC speaks."""

CIPHERS: Final = "DEFAULT:@SECLEVEL=2"
"""OpenSSL cipher string; of it only the security level means anything to TLS 1.3 (112 bits of security or more)."""

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


def client_context(folder: Path, name: str) -> ssl.SSLContext:
    """Return the TLS context of the client `name`, made from the files of `folder`.

    Raises:
        ConfigurationError: The name is not canonical, or a file is missing, unsound or not what it has to be.
    """
    require_canonical(name)
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    context.hostname_checks_common_name = False
    trust(context, certificate_path(folder, SERVER_AUTHORITY))
    present(context, certificate_path(folder, name), key_path(folder, name))
    return context


def new_context(side: ssl._SSLMethod) -> ssl.SSLContext:
    """Return a context for TLS 1.3 and HTTP/2 that trusts nobody yet and presents nothing."""
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.post_handshake_auth = False
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([ALPN_PROTOCOL])
    return context


def trust(context: ssl.SSLContext, authority_file: Path) -> list[bytes]:
    """Trust the authority in `authority_file`; nothing else is trusted, for no default is ever loaded.

    Returns:
        The certificates of the file in DER.

    Raises:
        ConfigurationError: The file is missing or unsound, or holds no authority's certificate.
    """
    certificates = _certificates(authority_file, read(authority_file))
    context.load_verify_locations(cadata=b"".join(certificates))
    if not context.cert_store_stats()["x509_ca"]:
        raise ConfigurationError(f"{authority_file} holds no authority's certificate: {REPLACE_THEM}")
    return certificates


def present(context: ssl.SSLContext, certificate_file: Path, key_file: Path) -> list[bytes]:
    """Present the certificate of one file, with the key of the other. An encrypted key asks no terminal.

    Returns:
        The certificates of the file in DER, the leaf first.

    Raises:
        ConfigurationError: A file is missing, unsound or too weak, or they do not belong together.
    """

    def refuse_to_ask() -> NoReturn:
        raise ConfigurationError(f"{key_file} is encrypted: put an unencrypted key there, readable by its owner alone")

    with opened(certificate_file) as certificate, opened(key_file, secret=True) as key:
        certificates = _certificates(
            certificate_file, content_of(certificate)
        )  # so that a refusal names the right file
        try:
            context.load_cert_chain(path_of(certificate), path_of(key), password=refuse_to_ask)
        except ssl.SSLError as error:
            raise ConfigurationError(_why_unusable(error, certificate_file, key_file)) from error
    return certificates


def _certificates(file: Path, pem: bytes) -> list[bytes]:
    """The certificates of a file in DER, each of which OpenSSL can parse."""
    try:
        found = [binascii.a2b_base64(block) for block in _PEM.findall(pem)]
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=b"".join(found))
    except (ValueError, ssl.SSLError) as error:  # ValueError: there is none, or what is there is not base64
        raise ConfigurationError(f"{file} holds no sound certificate in PEM: {REPLACE_THEM}") from error
    return found


def _why_unusable(error: ssl.SSLError, certificate_file: Path, key_file: Path) -> str:
    match error.reason:
        case "KEY_VALUES_MISMATCH":
            return f"{key_file} does not belong to {certificate_file}: {REPLACE_THEM}"
        case "EE_KEY_TOO_SMALL" | "CA_KEY_TOO_SMALL" | "CA_MD_TOO_WEAK":
            return f"{certificate_file} is too weak ({error.reason}): {REPLACE_THEM}"
        case _:
            return f"{key_file} holds no usable private key in PEM: {REPLACE_THEM}"
