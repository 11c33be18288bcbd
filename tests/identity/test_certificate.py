"""From a leaf certificate to an identity, or a refusal."""

from __future__ import annotations

import datetime
import functools
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobmaster.errors import CertificateRefused
from jobmaster.identity.certificate import identify, names_of, valid_until
from jobmaster.identity.policy import DEFAULT_POLICY, Identity, Role
from tests.certs.hostile_certificates import (
    ADMITTED_ROWS,
    CLIENT_ROWS,
    Admitted,
    ClientRow,
    Refused,
    RefusedBy,
    ec_key,
    mint,
    p384,
    rsa_key,
    sha1_certificate,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
        CertificatePublicKeyTypes,
    )

BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)
CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
CN_TAG = bytes.fromhex("0603550403")  # the object identifier of the common name, before its value
CLIENT1 = Identity(name="client1", role=Role.USER)
REFUSED_BY_LEAF = {
    name: str(row.outcome.why)
    for name, row in CLIENT_ROWS.items()
    if isinstance(row.outcome, Refused) and row.outcome.by is RefusedBy.IDENTITY and row.alpn == ("h2",)
}


def name_of(*common_names: str) -> x509.Name:
    """Return a subject of these common names and nothing else."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names])


def make(
    *extensions: x509.ExtensionType,
    subject: x509.Name | None = None,
    key: CertificatePublicKeyTypes | None = None,
    signer: CertificateIssuerPrivateKeyTypes | None = None,
    digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | hashes.SHA3_256 | None = None,
) -> bytes:
    """Return the DER of a certificate of client1 with `extensions`; the chain is not this module's matter."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or name_of("jobmaster-client1"))
        .issuer_name(name_of("jobmaster client authority"))
        .public_key(key or p384().public_key())
        .serial_number(1)
        .not_valid_before(BEGIN)
        .not_valid_after(END)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    by = signer or p384()
    no_digest = isinstance(by, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(by, None if no_digest else digest or hashes.SHA384()).public_bytes(serialization.Encoding.DER)


@functools.cache
def good() -> bytes:
    """Return a certificate of client1 with nothing wrong."""
    return make(CLIENT_AUTH)


def leaf_of(folder: Path, row: ClientRow) -> bytes:
    """Return the leaf certificate of a row of the matrix."""
    assert row.recipe is not None
    return mint(folder, row.recipe)[0].public_bytes(serialization.Encoding.DER)


def refusal_of(der: bytes) -> str:
    """Return why `der` is refused; fail if it is not."""
    with pytest.raises(CertificateRefused) as refusal:
        identify(der, DEFAULT_POLICY)
    return str(refusal.value)


def test_good_certificate() -> None:
    """A certificate with all that is asked for is its client's."""
    assert identify(good(), DEFAULT_POLICY) == CLIENT1


@pytest.mark.parametrize("row", sorted(ADMITTED_ROWS))
def test_admitted_rows(folder: Path, row: str) -> None:
    """The leaf alone of each row that gets in is the client the row says."""
    wanted = CLIENT_ROWS[row]
    assert isinstance(wanted.outcome, Admitted)
    assert identify(leaf_of(folder, wanted), DEFAULT_POLICY).name == wanted.outcome.name


@pytest.mark.parametrize(("row", "reason"), sorted(REFUSED_BY_LEAF.items()))
def test_refused_rows(folder: Path, row: str, reason: str) -> None:
    """The leaf alone of each row that TLS lets through is refused for the reason the row gives."""
    assert reason in refusal_of(leaf_of(folder, CLIENT_ROWS[row]))


@pytest.mark.parametrize("curve", [ec.SECP192R1, ec.SECP224R1, ec.SECP256K1, ec.BrainpoolP384R1])
def test_curves_not_allowed(curve: type[ec.EllipticCurve]) -> None:
    """An ECDSA key on a curve that is not on the list is refused, and the refusal names the curve."""
    assert curve().name in refusal_of(make(CLIENT_AUTH, key=ec_key(curve).public_key()))


def test_explicit_curve_parameters() -> None:
    """A key that brings its own curve instead of naming one is refused, even with the numbers of a good curve."""
    named = (
        ec_key(ec.SECP256R1)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    oid = bytes.fromhex("06082a8648ce3d030107")
    assert oid in named
    der = make(CLIENT_AUTH, key=ec_key(ec.SECP256R1).public_key()).replace(oid, bytes.fromhex("30080201010203ffffff"))
    assert "cannot be read" in refusal_of(der)


@pytest.mark.parametrize("bits", [1024, 2048])
def test_small_rsa_keys(bits: int) -> None:
    """An RSA key below 3072 bits is refused."""
    public = rsa_key(bits).public_key()
    assert f"RSA {bits}" in refusal_of(make(CLIENT_AUTH, key=public))


def test_key_of_another_type() -> None:
    """A key that is neither ECDSA, Ed25519 nor RSA is refused."""
    assert "of another type" in refusal_of(make(CLIENT_AUTH, key=dsa.generate_private_key(2048).public_key()))
    assert "Ed448" in refusal_of(make(CLIENT_AUTH, key=ed448.Ed448PrivateKey.generate().public_key()))


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_accepted_hashes(digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512) -> None:
    """A signature with SHA-256, SHA-384 or SHA-512 is accepted."""
    assert identify(make(CLIENT_AUTH, digest=digest), DEFAULT_POLICY) == CLIENT1


def test_sha1_signature(folder: Path) -> None:
    """A signature with SHA-1 is refused here too, should TLS ever let it through."""
    der = sha1_certificate(folder, p384()).public_bytes(serialization.Encoding.DER)
    assert "signed with sha1" in refusal_of(der)


def test_other_signatures() -> None:
    """A signature with another hash, or with none and not Ed25519, is refused; Ed25519 is accepted."""
    assert "signed with sha3-256" in refusal_of(make(CLIENT_AUTH, digest=hashes.SHA3_256()))
    assert "signed with no hash" in refusal_of(make(CLIENT_AUTH, signer=ed448.Ed448PrivateKey.generate()))
    signed = make(CLIENT_AUTH, signer=ed25519.Ed25519PrivateKey.generate())
    assert identify(signed, DEFAULT_POLICY) == CLIENT1


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ((), "has no extended key usage"),
        ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),), "does not name clientAuth"),
        ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),), "does not name clientAuth"),
        ((CLIENT_AUTH, x509.BasicConstraints(ca=True, path_length=None)), "an authority's"),
    ],
)
def test_usage(extensions: tuple[x509.ExtensionType, ...], reason: str) -> None:
    """A certificate that is not expressly a client's, or is an authority's, is refused."""
    assert reason in refusal_of(make(*extensions))


def test_further_usages_do_no_harm() -> None:
    """A client's usage among others is enough."""
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    assert identify(make(usages), DEFAULT_POLICY) == CLIENT1


@pytest.mark.parametrize(
    ("common_name", "reason"),
    [
        ("client1", "not of the form"),
        ("jobmaster-", "not of the form"),
        ("Jobmaster-client1", "not of the form"),
        ("xjobmaster-client1", "not of the form"),
        ("jobmaster-jobmaster-client1", "knows no client"),
        ("jobmaster-client1 ", "knows no client"),
        ("jobmaster-superuser\0.example", "knows no client"),
    ],
)
def test_common_name(common_name: str, reason: str) -> None:
    """A common name that is not the prefix and a name of the policy is refused."""
    assert reason in refusal_of(make(CLIENT_AUTH, subject=name_of(common_name)))


def test_two_common_names_in_one_part() -> None:
    """Two common names are two, also when the subject holds them in one relative distinguished name."""
    both = [*name_of("jobmaster-client1"), *name_of("jobmaster-superuser")]
    subject = x509.Name([x509.RelativeDistinguishedName(both)])
    assert "2 common names" in refusal_of(make(CLIENT_AUTH, subject=subject))


@pytest.mark.parametrize("tag", [0x02, 0x03, 0x30])
def test_common_name_that_is_not_text(tag: int) -> None:
    """A common name whose ASN.1 type is not a string is refused."""
    before = CN_TAG + bytes([0x0C])
    assert before in good()
    refusal_of(good().replace(before, CN_TAG + bytes([tag])))


@pytest.mark.parametrize("oid", [ExtensionOID.EXTENDED_KEY_USAGE, ExtensionOID.BASIC_CONSTRAINTS])
def test_malformed_extension(oid: x509.ObjectIdentifier) -> None:
    """An extension that is judged and cannot be parsed is a refusal."""
    der = make(x509.UnrecognizedExtension(oid, b"\xff\xff"))
    assert "cannot be read" in refusal_of(der)


def test_extension_given_twice() -> None:
    """A certificate with two extended key usages, one for each taste, is refused."""
    constraints, usage = bytes.fromhex("0603551d24"), bytes.fromhex("0603551d25")
    other = x509.UnrecognizedExtension(
        ExtensionOID.POLICY_CONSTRAINTS, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]).public_bytes()
    )
    der = make(CLIENT_AUTH, other)
    assert constraints in der
    assert "cannot be read" in refusal_of(der.replace(constraints, usage))


def test_valid_until() -> None:
    """The end of a certificate's validity is an aware moment in UTC."""
    assert valid_until(good()) == END
    assert valid_until(good()).utcoffset() == datetime.timedelta(0)


def test_valid_until_of_no_certificate() -> None:
    """Bytes that are no certificate have no end of validity: they are refused."""
    with pytest.raises(CertificateRefused):
        valid_until(b"no certificate")


@given(st.binary(max_size=2048))
@settings(deadline=None)
@example(b"")
def test_arbitrary_bytes(der: bytes) -> None:
    """Whatever the bytes, they are refused and nothing else is raised."""
    refusal_of(der)


EDITS = st.lists(st.tuples(st.integers(0, 4095), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=4)


@given(EDITS)
@settings(max_examples=1000, deadline=None)
def test_mutated_certificate(edits: list[tuple[int, bytes, int]]) -> None:
    """A good certificate with bytes changed, inserted and removed is an identity of the policy or a refusal."""
    der = good()
    for position, inserted, removed in edits:
        at = position % (len(der) + 1)
        der = der[:at] + inserted + der[at + removed :]
    try:
        identity = identify(der, DEFAULT_POLICY)
    except CertificateRefused:
        return
    assert identity in DEFAULT_POLICY.identities


def test_what_a_certificate_is_called() -> None:
    """Its serial number and its SHA-256 fingerprint, in hexadecimal; what is no certificate has no serial."""
    der = good()
    assert names_of(der) == (
        f"{x509.load_der_x509_certificate(der).serial_number:x}",
        x509.load_der_x509_certificate(der).fingerprint(hashes.SHA256()).hex(),
    )
    assert names_of(b"x") == (None, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
