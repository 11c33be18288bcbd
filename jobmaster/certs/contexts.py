"""The TLS of the server, and who the peer of a finished handshake is; the clients' TLS is made in `credentials`.

Theory of operation
-------------------
The server issues no session tickets. A resumed session is not verified again, so that with tickets a client whose
certificate has expired would still get in.

A certificate out of its validity period is refused when the context is made: a server that presents one looks ready to
its operator, and every client turns away. Where that would cost jobs their lives, it is a warning.

What OpenSSL does not refuse in a handshake, :func:`peer_identity` refuses after it: it has to be asked before the
first byte of a connection is served. Unlike a missing certificate, a missing ALPN agreement lets a handshake succeed.
"""

from __future__ import annotations

import datetime
import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobmaster.certs.credentials import ALPN_PROTOCOL, client_context, new_context, present, trust
from jobmaster.certs.folder import CLIENT_AUTHORITY, SERVER, certificate_path, key_path
from jobmaster.certs.key_files import REPLACE_THEM
from jobmaster.errors import CertificateRefused, ConfigurationError
from jobmaster.identity.certificate import Validity, identify, read_certificate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import trio

    from jobmaster.identity.policy import Identity, Policy

__all__ = ["ServerCredentials", "client_context", "peer_identity", "server_context", "server_credentials"]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerCredentials:
    """What a server presents, and whom it trusts: the context, and the clients' authorities in DER."""

    context: ssl.SSLContext
    authorities: tuple[bytes, ...]


def server_context(folder: Path, *, now: datetime.datetime | None = None, must_be_valid: bool = True) -> ssl.SSLContext:
    """Return the context of `server_credentials`."""
    return server_credentials(folder, now=now, must_be_valid=must_be_valid).context


def server_credentials(
    folder: Path, *, now: datetime.datetime | None = None, must_be_valid: bool = True
) -> ServerCredentials:
    """Return the server's TLS, made from the files of `folder`.

    Args:
        folder: The certificate folder.
        now: The moment at which the certificates have to be valid; by default the present.
        must_be_valid: Else it is a warning where they are not.

    Raises:
        ConfigurationError: A file is missing, unsound, out of its validity period or not what it has to be; the text
            names it and the remedy.
    """
    now = datetime.datetime.now(datetime.UTC) if now is None else now
    authority_file, certificate_file = certificate_path(folder, CLIENT_AUTHORITY), certificate_path(folder, SERVER)
    context = new_context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    authorities = trust(context, authority_file)
    leaf, *_ = present(context, certificate_file, key_path(folder, SERVER))
    try:
        _require_valid(authority_file, authorities, now)
        _require_valid(certificate_file, [leaf], now)
    except ConfigurationError as error:
        if must_be_valid:
            raise
        logger.warning("%s, and send the service SIGHUP: until then no client gets in", error)
    return ServerCredentials(context, tuple(authorities))


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


def _require_valid(file: Path, certificates: Sequence[bytes], now: datetime.datetime) -> None:
    """Refuse a file none of whose certificates is valid at `now`."""
    try:
        facts = [read_certificate(der) for der in certificates]
    except CertificateRefused as error:
        raise ConfigurationError(f"{file}: {error}: {REPLACE_THEM}") from error
    if any(fact.validity(now) is Validity.VALID for fact in facts):
        return
    match facts[0].validity(now):
        case Validity.NOT_YET:
            begins = f"{facts[0].not_before:%Y-%m-%d %H:%M}"
            raise ConfigurationError(
                f"{file} is not valid before {begins} UTC: set this host's clock right, or {REPLACE_THEM}"
            )
        case _:
            raise ConfigurationError(f"{file} expired at {facts[0].not_after:%Y-%m-%d %H:%M} UTC: {REPLACE_THEM}")
