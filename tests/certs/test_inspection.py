"""What is told of the certificates of a folder."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from jobmaster.certs.authority import make_authority
from jobmaster.certs.inspection import inspect, names_in
from jobmaster.identity.certificate import Validity

if TYPE_CHECKING:
    from pathlib import Path

DAY = datetime.timedelta(days=1)


@pytest.fixture
def now(folder: Path) -> datetime.datetime:  # its certificates are made first
    """The present moment, at which the folder's certificates are valid."""
    return datetime.datetime.now(datetime.UTC)


def test_names_of_all_that_have_one(folder: Path) -> None:
    """Everybody with a certificate is named once; a folder that is not there has none."""
    (folder / "client9_key.pem").write_text("a key alone")
    names = ("client1", "client2", "client3", "client_ca", "server1", "server_ca", "superuser")
    assert names_in(folder) == names
    assert names_in(folder / "none") == ()


def test_a_year_and_ten(folder: Path, now: datetime.datetime) -> None:
    """The period is the certificate's own."""
    leaf, authority = inspect(folder, "client1", now), inspect(folder, "client_ca", now)
    assert (leaf.fault, leaf.name) == (None, "client1_cert.pem")
    assert 364 <= (leaf.not_after - now).days <= 365
    assert (authority.not_after - now).days > 3600
    assert [leaf.validity(now + days * DAY) for days in (-2, 1, 366)] == [
        Validity.NOT_YET,
        Validity.VALID,
        Validity.EXPIRED,
    ]


@pytest.mark.parametrize("begins", [-4000, 400])
def test_one_of_several_is_enough(folder: Path, now: datetime.datetime, begins: int) -> None:
    """Beside one that is valid, an authority that has expired, or is not valid yet, does no harm."""
    other = make_authority("jobmaster client authority", now=now + begins * DAY).certificate
    file = folder / "client_ca_cert.pem"
    file.write_bytes(other.public_bytes(Encoding.PEM) + file.read_bytes())
    assert inspect(folder, "client_ca", now).validity(now) is Validity.VALID


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "holds no sound certificate"), (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "holds no")]
)
def test_a_file_that_holds_none(folder: Path, now: datetime.datetime, content: bytes, words: str) -> None:
    """What is no certificate is a fault with a remedy, and no error."""
    (folder / "client1_cert.pem").write_bytes(content)
    fault = inspect(folder, "client1", now).fault
    assert fault is not None
    assert words in fault


def test_a_file_that_others_may_write(folder: Path, now: datetime.datetime) -> None:
    """What a server would refuse is a fault."""
    (folder / "client1_cert.pem").chmod(0o666)
    assert "chmod 644" in str(inspect(folder, "client1", now).fault)
