"""The two authorities: what they sign, and what they write."""

from __future__ import annotations

import datetime
import ipaddress
import os
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from jobmaster.certs.authority import (
    AUTHORITY_LIFETIME,
    CLOCK_TOLERANCE,
    DEFAULT_CLIENTS,
    LEAF_LIFETIME,
    KeyPair,
    initialise,
    issue,
    load_pair,
    make_authority,
    make_client,
    make_server,
    names_of_this_host,
)
from jobmaster.certs.folder import CLIENT_AUTHORITY, SERVER, SERVER_AUTHORITY, certificate_path, key_path
from jobmaster.errors import ConfigurationError
from jobmaster.identity.certificate import identify
from jobmaster.identity.policy import DEFAULT_POLICY

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
EVERYONE = (SERVER_AUTHORITY, CLIENT_AUTHORITY, SERVER, *DEFAULT_CLIENTS)
LEAVES = {SERVER: SERVER_AUTHORITY, **dict.fromkeys(DEFAULT_CLIENTS, CLIENT_AUTHORITY)}


def test_files_of_the_folder(folder: Path) -> None:
    """`initialise` writes a certificate and a key for both authorities, the server and the four default clients."""
    expected = {f"{who}_{kind}.pem" for who in EVERYONE for kind in ("cert", "key")}
    assert set(DEFAULT_CLIENTS) == {"client1", "client2", "client3", "superuser"}
    assert set(os.listdir(folder)) == expected


def test_modes(folder: Path) -> None:
    """The folder is 0700, keys are 0600 and certificates 0644."""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for who in EVERYONE:
        assert stat.S_IMODE(certificate_path(folder, who).stat().st_mode) == 0o644
        assert stat.S_IMODE(key_path(folder, who).stat().st_mode) == 0o600


@pytest.mark.parametrize("who", EVERYONE)
def test_algorithms(folder: Path, who: str) -> None:
    """Every key is ECDSA P-384 in unencrypted PKCS #8, and every signature ECDSA with SHA-384."""
    pair = load_pair(folder, who)
    assert isinstance(pair.key.curve, ec.SECP384R1)
    assert pair.certificate.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA384
    assert key_path(folder, who).read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize("who", [SERVER_AUTHORITY, CLIENT_AUTHORITY])
def test_authority_profile(folder: Path, who: str) -> None:
    """An authority may sign leaves and revocation lists, critically so, and no further authority."""
    extensions = load_pair(folder, who).certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)


@pytest.mark.parametrize(("who", "signer"), LEAVES.items())
def test_leaf_profile(folder: Path, who: str, signer: str) -> None:
    """A leaf may sign handshakes and nothing else, for its own side alone, and points to its authority's key."""
    leaf, authority = load_pair(folder, who).certificate, load_pair(folder, signer).certificate
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if who == SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    leaf.verify_directly_issued_by(authority)
    assert leaf.subject.rfc4514_string() == f"CN=jobmaster-{who}"
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
    pointer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert pointer == authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def test_serial_numbers_differ(folder: Path) -> None:
    """No two certificates share a serial number or a key."""
    certificates = [load_pair(folder, who).certificate for who in EVERYONE]
    assert len({certificate.serial_number for certificate in certificates}) == len(EVERYONE)
    assert len({pem_of(certificate) for certificate in certificates}) == len(EVERYONE)


def pem_of(certificate: x509.Certificate) -> bytes:
    """Return the public key, to be compared."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("name", DEFAULT_CLIENTS)
def test_default_clients_are_identified(folder: Path, name: str) -> None:
    """Each default client's certificate identifies it by the default policy."""
    der = load_pair(folder, name).certificate.public_bytes(serialization.Encoding.DER)
    assert identify(der, DEFAULT_POLICY).name == name


def test_validity() -> None:
    """An authority is valid for ten years and a leaf for one, both from five minutes ago."""
    authority = make_authority("authority", now=NOW)
    client = make_client(authority, "client1", now=NOW)
    assert (
        authority.certificate.not_valid_before_utc == client.certificate.not_valid_before_utc == NOW - CLOCK_TOLERANCE
    )
    assert authority.certificate.not_valid_after_utc == NOW + AUTHORITY_LIFETIME
    assert client.certificate.not_valid_after_utc == NOW + LEAF_LIFETIME


def test_leaf_ends_with_its_authority() -> None:
    """A leaf does not outlive its authority."""
    authority = make_authority("authority", now=NOW)
    late = NOW + AUTHORITY_LIFETIME - datetime.timedelta(days=1)
    client = make_client(authority, "client1", now=late)
    assert client.certificate.not_valid_after_utc == NOW + AUTHORITY_LIFETIME


def test_expired_authority_signs_nothing() -> None:
    """An authority that has expired makes no leaf."""
    authority = make_authority("authority", now=NOW)
    with pytest.raises(ConfigurationError, match="expired"):
        make_client(authority, "client1", now=NOW + AUTHORITY_LIFETIME)


def test_names_of_the_server() -> None:
    """The server's certificate covers localhost, both loopback addresses and what else it is reached by, once each."""
    hosts = ["server.example", "192.0.2.1", "localhost", "server.example", "2001:db8::1"]
    pair = make_server(make_authority("authority", now=NOW), "server1", hosts, now=NOW)
    names = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [
        "localhost",
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
        "server.example",
        ipaddress.ip_address("192.0.2.1"),
        ipaddress.ip_address("2001:db8::1"),
    ]


@pytest.mark.parametrize("host", ["", "a b", "*.example", "é.example", "a" * 254, "-x", "name\n"])
def test_host_that_is_none(host: str) -> None:
    """What is neither a host name nor an address is refused, and the refusal shows it."""
    with pytest.raises(ConfigurationError, match="neither a host name nor an IP address"):
        make_server(make_authority("authority", now=NOW), "server1", [host], now=NOW)


@pytest.mark.usefixtures("no_resolver")
def test_host_names_by_default(tmp_path: Path) -> None:
    """Unless told, the server is reached by the names the host gives itself."""
    initialise(tmp_path / "certs")
    certificate = load_pair(tmp_path / "certs", SERVER).certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "host", "host.example"]


@pytest.mark.usefixtures("no_resolver")
def test_unusable_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of the host that no certificate can hold is left out, and does not keep the server from starting."""
    monkeypatch.setattr("socket.gethostname", lambda: "häuschen")
    assert names_of_this_host() == ("host.example",)


def test_never_overwritten_unasked(folder: Path) -> None:
    """A second `initialise` changes nothing and says how to insist."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigurationError, match="--force"):
        initialise(folder, hosts=[])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_nothing_half_made(tmp_path: Path) -> None:
    """When a single one of the files exists, `initialise` makes none of the others."""
    (tmp_path / "superuser_key.pem").touch()
    with pytest.raises(ConfigurationError, match=r"superuser_key\.pem exists"):
        initialise(tmp_path, hosts=[])
    assert os.listdir(tmp_path) == ["superuser_key.pem"]


def test_force_makes_all_anew(folder: Path) -> None:
    """With force every file is replaced, and they belong together."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    initialise(folder, force=True, hosts=[])
    after = {path: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    for who in EVERYONE:
        load_pair(folder, who)


def test_issue(folder: Path) -> None:
    """`issue` makes a client's certificate that the folder's client authority has signed."""
    paths = issue(folder, "backup-1")
    assert paths == (certificate_path(folder, "backup-1"), key_path(folder, "backup-1"))
    made = load_pair(folder, "backup-1").certificate
    made.verify_directly_issued_by(load_pair(folder, CLIENT_AUTHORITY).certificate)
    assert made.subject.rfc4514_string() == "CN=jobmaster-backup-1"


def test_issue_with_force(folder: Path) -> None:
    """`issue` replaces a client's files with force alone."""
    before = certificate_path(folder, "client1").read_bytes()
    with pytest.raises(ConfigurationError, match="--force"):
        issue(folder, "client1")
    assert certificate_path(folder, "client1").read_bytes() == before
    issue(folder, "client1", force=True)
    assert certificate_path(folder, "client1").read_bytes() != before
    load_pair(folder, "client1")


@pytest.mark.parametrize("name", ["", "Client1", "../evil", "a_b", "x" * 55, "server1", "server_ca"])
def test_names_not_issued(folder: Path, name: str) -> None:
    """A name that is not canonical, or is the server's, gets no certificate, with force neither."""
    before = sorted(os.listdir(folder))
    with pytest.raises(ConfigurationError):
        issue(folder, name, force=True)
    assert sorted(os.listdir(folder)) == before


def test_longest_name(folder: Path) -> None:
    """The longest name allowed fits into a common name."""
    issue(folder, "x" * 54)
    load_pair(folder, "x" * 54)


def test_issue_needs_the_authority(tmp_path: Path) -> None:
    """Without the client authority `issue` names the missing file and makes no folder."""
    with pytest.raises(ConfigurationError, match=r"client_ca_cert\.pem is missing"):
        issue(tmp_path / "certs", "client1")
    assert not (tmp_path / "certs").exists()


def test_issue_needs_a_private_authority(folder: Path) -> None:
    """An authority whose key is open to others is not used."""
    key_path(folder, CLIENT_AUTHORITY).chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        issue(folder, "backup")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"", "no unencrypted private key"),
        (
            ed25519.Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            "no ECDSA key",
        ),
        (
            ec.generate_private_key(ec.SECP384R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            ),
            "no unencrypted private key",
        ),
        (
            ec.generate_private_key(ec.SECP384R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            "does not belong to",
        ),
    ],
    ids=["empty", "Ed25519", "encrypted", "another's"],
)
def test_unusable_authority_key(folder: Path, key: bytes, reason: str) -> None:
    """A key that is none, encrypted, of another kind or another's is refused by name."""
    key_path(folder, CLIENT_AUTHORITY).write_bytes(key)
    with pytest.raises(ConfigurationError, match=rf"client_ca_key\.pem {reason}|client_ca_key\.pem holds {reason}"):
        issue(folder, "backup")


def test_unusable_authority_certificate(folder: Path) -> None:
    """A certificate file without a certificate is refused by name."""
    certificate_path(folder, CLIENT_AUTHORITY).write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match=r"client_ca_cert\.pem holds no certificate"):
        issue(folder, "backup")


def test_pair_has_to_match() -> None:
    """A certificate and a key that do not belong together are no pair."""
    one, other = make_authority("one", now=NOW), make_authority("other", now=NOW)
    with pytest.raises(ConfigurationError, match="does not belong"):
        KeyPair(certificate=one.certificate, key=other.key)
