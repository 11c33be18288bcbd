"""Certificates that must not get in, and a few unusual ones that must: made on demand, for any test that has a server.

``make(folder, row)`` makes the certificate of one row of :data:`CLIENT_ROWS` with the authorities of the initialised
certificate folder `folder`, into a folder of its own below it. ``credentials.context()`` is the TLS context of a
client that presents it and does not itself refuse anything, as an attacker's would be. For clients there are bad
servers: ``make_server(folder, row)`` gives a certificate folder whose server certificate is that row of
:data:`SERVER_ROWS`.
"""

from __future__ import annotations

import datetime
import enum
import functools
import os
import shutil
import tempfile
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jobmaster.certs.authority import KeyPair, load_pair, make_authority
from jobmaster.certs.folder import CLIENT_AUTHORITY, SERVER, SERVER_AUTHORITY, certificate_path, key_path

if TYPE_CHECKING:
    from pathlib import Path

Digest = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

HOUR: Final = datetime.timedelta(hours=1)
STRANGERS: Final = {
    "strange client_ca": "jobmaster client authority",
    "strange server_ca": "jobmaster server authority",
}
"""Authorities nobody trusts, each with the subject of one that is trusted and a key of its own."""

_OPENSSL_DEADLINE: Final = 30  # seconds


class RefusedBy(enum.Enum):
    """Who refuses a row: the TLS handshake, or the look at the certificate after it."""

    TLS = "tls"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What becomes of a refused row: by whom, and why.

    `why` is OpenSSL's verify code (X509_V_ERR_…) or its reason for TLS, and part of the text otherwise.
    """

    by: RefusedBy
    why: int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What becomes of an admitted row: the name of the identity."""

    name: str


@functools.cache
def ec_key(curve: type[ec.EllipticCurve]) -> ec.EllipticCurvePrivateKey:
    """Return the key on `curve`, always the same one."""
    return ec.generate_private_key(curve())


@functools.cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """Return the RSA key of `bits`, always the same one: making it takes long."""
    return rsa.generate_private_key(65537, bits)


p384: Final = functools.partial(ec_key, ec.SECP384R1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make one certificate; what is not said is as it should be."""

    common_names: tuple[str, ...] = ("jobmaster-client1",)
    key: Callable[[], PrivateKey] = p384
    signed_by: str = CLIENT_AUTHORITY
    digest: Callable[[], Digest] = hashes.SHA384
    usages: tuple[x509.ObjectIdentifier, ...] | None = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    is_authority: bool = False
    begins: datetime.timedelta = -HOUR
    ends: datetime.timedelta = HOUR
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRow:
    """One client: its certificate, what it appends to its chain, how it speaks TLS, and what becomes of it."""

    recipe: Recipe | None = Recipe()
    appends: str | None = None
    sha1: bool = False
    tls_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    alpn: tuple[str, ...] = ("h2",)
    outcome: Refused | Admitted


def _by_tls(why: int | str) -> Refused:
    return Refused(by=RefusedBy.TLS, why=why)


def _by_identity(why: str) -> Refused:
    return Refused(by=RefusedBy.IDENTITY, why=why)


# X509_V_ERR_… of OpenSSL's x509_vfy.h, the same in every version
_BAD_SIGNATURE: Final = 7
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_SELF_SIGNED_IN_CHAIN: Final = 19
_NO_SUCH_ISSUER: Final = 20
_INVALID_PURPOSE: Final = 26
_HOST_MISMATCH: Final = 62
_KEY_TOO_SMALL: Final = 66
_HASH_TOO_WEAK: Final = 68
_INVALID_CA: Final = 79

_SERVER_AUTH: Final = (ExtendedKeyUsageOID.SERVER_AUTH,)
_CLIENT_AUTH: Final = (ExtendedKeyUsageOID.CLIENT_AUTH,)

CLIENT_ROWS: Final[dict[str, ClientRow]] = {
    "no certificate": ClientRow(recipe=None, outcome=_by_tls("PEER_DID_NOT_RETURN_A_CERTIFICATE")),
    "other authority": ClientRow(recipe=Recipe(signed_by="strange client_ca"), outcome=_by_tls(_BAD_SIGNATURE)),
    "expired": ClientRow(recipe=Recipe(begins=-2 * HOUR, ends=-HOUR), outcome=_by_tls(_EXPIRED)),
    "not yet valid": ClientRow(recipe=Recipe(begins=HOUR, ends=2 * HOUR), outcome=_by_tls(_NOT_YET_VALID)),
    "server's authority": ClientRow(
        recipe=Recipe(common_names=("jobmaster-server1",), signed_by=SERVER_AUTHORITY, usages=_SERVER_AUTH),
        outcome=_by_tls(_NO_SUCH_ISSUER),
    ),
    "client's authority, server's usage": ClientRow(
        recipe=Recipe(usages=_SERVER_AUTH), outcome=_by_tls(_INVALID_PURPOSE)
    ),
    "any usage": ClientRow(
        recipe=Recipe(usages=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)), outcome=_by_tls(_INVALID_PURPOSE)
    ),
    "signed by client2": ClientRow(recipe=Recipe(signed_by="client2"), appends="client2", outcome=_by_tls(_INVALID_CA)),
    "SHA-1": ClientRow(sha1=True, outcome=_by_tls(_HASH_TOO_WEAK)),
    "RSA 1024": ClientRow(recipe=Recipe(key=functools.partial(rsa_key, 1024)), outcome=_by_tls(_KEY_TOO_SMALL)),
    "P-192": ClientRow(
        recipe=Recipe(key=functools.partial(ec_key, ec.SECP192R1)), outcome=_by_tls("PEER_DID_NOT_RETURN_A_CERTIFICATE")
    ),
    "P-224": ClientRow(
        recipe=Recipe(key=functools.partial(ec_key, ec.SECP224R1)), outcome=_by_tls("PEER_DID_NOT_RETURN_A_CERTIFICATE")
    ),
    "TLS 1.2": ClientRow(tls_version=ssl.TLSVersion.TLSv1_2, outcome=_by_tls("UNSUPPORTED_PROTOCOL")),
    "RSA 2048": ClientRow(recipe=Recipe(key=functools.partial(rsa_key, 2048)), outcome=_by_identity("RSA 2048")),
    "SHA-224": ClientRow(recipe=Recipe(digest=hashes.SHA224), outcome=_by_identity("signed with sha224")),
    "no extended key usage": ClientRow(recipe=Recipe(usages=None), outcome=_by_identity("has no extended key usage")),
    "an authority's": ClientRow(recipe=Recipe(is_authority=True), outcome=_by_identity("is an authority's")),
    "no prefix": ClientRow(
        recipe=Recipe(common_names=("superuser",)), outcome=_by_identity("'superuser' is not of the form")
    ),
    "no common name": ClientRow(recipe=Recipe(common_names=()), outcome=_by_identity("0 common names")),
    "two common names": ClientRow(
        recipe=Recipe(common_names=("jobmaster-client1", "jobmaster-superuser")),
        outcome=_by_identity("2 common names"),
    ),
    "unknown name": ClientRow(
        recipe=Recipe(common_names=("jobmaster-nobody",)), outcome=_by_identity("knows no client named 'nobody'")
    ),
    "no ALPN": ClientRow(alpn=(), outcome=_by_identity("no protocol by ALPN")),
    "other ALPN": ClientRow(alpn=("http/1.1",), outcome=_by_identity("no protocol by ALPN")),
    "superuser's certificate appended": ClientRow(appends="superuser", outcome=Admitted(name="client1")),
    "upper case": ClientRow(recipe=Recipe(common_names=("jobmaster-SuperUser",)), outcome=Admitted(name="superuser")),
    "P-256": ClientRow(
        recipe=Recipe(
            key=functools.partial(ec_key, ec.SECP256R1), digest=hashes.SHA256, common_names=("jobmaster-client2",)
        ),
        outcome=Admitted(name="client2"),
    ),
    "P-521": ClientRow(
        recipe=Recipe(key=functools.partial(ec_key, ec.SECP521R1), digest=hashes.SHA512),
        outcome=Admitted(name="client1"),
    ),
    "Ed25519": ClientRow(recipe=Recipe(key=ed25519.Ed25519PrivateKey.generate), outcome=Admitted(name="client1")),
    "RSA 3072": ClientRow(recipe=Recipe(key=functools.partial(rsa_key, 3072)), outcome=Admitted(name="client1")),
}
"""Each client by its name.

P-192 and P-224 never get as far as their size: TLS 1.3 has no signature scheme for those curves (RFC 8446 section
4.2.3), so that a client can only send no certificate at all.
"""

REFUSED_ROWS: Final = tuple(name for name, row in CLIENT_ROWS.items() if isinstance(row.outcome, Refused))
ADMITTED_ROWS: Final = tuple(name for name, row in CLIENT_ROWS.items() if isinstance(row.outcome, Admitted))

_SERVER: Final = Recipe(
    common_names=("jobmaster-server1",), signed_by=SERVER_AUTHORITY, usages=_SERVER_AUTH, hosts=("localhost",)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    """One bad server: its certificate, and the verify code with which a client refuses it."""

    recipe: Recipe
    verify_code: int


def _server(
    *,
    why: int,
    common_name: str = "jobmaster-server1",
    signed_by: str = SERVER_AUTHORITY,
    usages: tuple[x509.ObjectIdentifier, ...] = _SERVER_AUTH,
    hosts: tuple[str, ...] = ("localhost",),
    begins: datetime.timedelta = -HOUR,
    ends: datetime.timedelta = HOUR,
) -> ServerRow:
    recipe = Recipe(
        common_names=(common_name,), signed_by=signed_by, usages=usages, hosts=hosts, begins=begins, ends=ends
    )
    return ServerRow(recipe=recipe, verify_code=why)


SERVER_ROWS: Final[dict[str, ServerRow]] = {
    "expired": _server(begins=-2 * HOUR, ends=-HOUR, why=_EXPIRED),
    "not yet valid": _server(begins=HOUR, ends=2 * HOUR, why=_NOT_YET_VALID),
    "other host": _server(hosts=("elsewhere.example",), why=_HOST_MISMATCH),
    "host in the common name alone": _server(common_name="localhost", hosts=(), why=_HOST_MISMATCH),
    "other authority": _server(signed_by="strange server_ca", why=_BAD_SIGNATURE),
    "client's authority": _server(signed_by=CLIENT_AUTHORITY, why=_SELF_SIGNED_IN_CHAIN),
    "client's usage": _server(usages=_CLIENT_AUTH, why=_INVALID_PURPOSE),
}
"""Each bad server by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """The files of one row (None for the one without a certificate) and how it speaks TLS."""

    cert_path: Path | None
    key_path: Path | None
    tls_version: ssl.TLSVersion
    alpn: tuple[str, ...]

    def context(self) -> ssl.SSLContext:
        """Return the context of a client that presents this, trusts any server and refuses nothing itself."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = self.tls_version
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if self.cert_path is not None and self.key_path is not None:
            context.load_cert_chain(self.cert_path, self.key_path)
        return context


def make(folder: Path, row: str) -> ClientCredentials:
    """Make the client of `row`; `folder` has been initialised and keeps its own files as they are."""
    wanted = CLIENT_ROWS[row]
    cert_path = _make_files(folder, row, wanted) if wanted.recipe is not None else None
    return ClientCredentials(
        cert_path=cert_path,
        key_path=None if cert_path is None else key_path(cert_path.parent, "client"),
        tls_version=wanted.tls_version,
        alpn=wanted.alpn,
    )


def make_server(folder: Path, row: str) -> Path:
    """Return a copy of the certificate folder `folder` whose server certificate is that of `row`."""
    (folder / "hostile").mkdir(exist_ok=True)
    copy = Path(tempfile.mkdtemp(prefix=f"server {row} ", dir=folder / "hostile"))  # other tests make the same
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("hostile"), dirs_exist_ok=True)
    certificate, key = mint(folder, SERVER_ROWS[row].recipe)
    certificate_path(copy, SERVER).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path(copy, SERVER).write_bytes(_key_pem(key))
    return copy


def mint(folder: Path, recipe: Recipe) -> tuple[x509.Certificate, PrivateKey]:
    """Make the certificate of `recipe` and return it with its key."""
    key = recipe.key()
    authority = _authority(folder, recipe.signed_by)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in recipe.common_names]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + recipe.begins)
        .not_valid_after(now + recipe.ends)
        .add_extension(x509.BasicConstraints(ca=recipe.is_authority, path_length=None), critical=True)
    )
    if recipe.usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(recipe.usages), critical=False)
    if recipe.hosts:
        names = [x509.DNSName(host) for host in recipe.hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, recipe.digest()), key


def sha1_certificate(folder: Path, key: PrivateKey) -> x509.Certificate:
    """Return a client1 certificate signed with SHA-1. The cryptography library makes none: the openssl command does."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jobmaster-client1")]))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA384())
        .public_bytes(serialization.Encoding.PEM)
    )
    command = ["openssl", "x509", "-req", "-sha1", "-days", "1", "-set_serial", "1", "-copy_extensions", "copy"]
    authority = [
        "-CA",
        str(certificate_path(folder, CLIENT_AUTHORITY)),
        "-CAkey",
        str(key_path(folder, CLIENT_AUTHORITY)),
    ]
    made = subprocess.run(
        [*command, *authority], input=request, capture_output=True, check=True, timeout=_OPENSSL_DEADLINE
    )
    return x509.load_pem_x509_certificate(made.stdout)


def _make_files(folder: Path, row: str, wanted: ClientRow) -> Path:
    assert wanted.recipe is not None
    certificate, key = mint(folder, wanted.recipe)
    if wanted.sha1:
        certificate = sha1_certificate(folder, key)
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    if wanted.appends is not None:
        chain += certificate_path(folder, wanted.appends).read_bytes()
    place = folder / "hostile" / f"client {row.replace('/', '-')}"
    place.mkdir(parents=True, exist_ok=True)
    certificate_path(place, "client").write_bytes(chain)
    with open(key_path(place, "client"), "wb", opener=_private) as file:
        file.write(_key_pem(key))
    return certificate_path(place, "client")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _authority(folder: Path, name: str) -> KeyPair:
    if name in STRANGERS:
        return make_authority(STRANGERS[name], now=datetime.datetime.now(datetime.UTC))
    return load_pair(folder, name)


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
