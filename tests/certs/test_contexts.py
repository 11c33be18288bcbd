"""The TLS contexts of both sides, and what keeps one from being made."""

from __future__ import annotations

import datetime
import os
import re
import ssl
import subprocess
import sys
import types
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from jobmaster.certs import credentials
from jobmaster.certs.authority import LEAF_LIFETIME, load_pair, make_authority
from jobmaster.certs.contexts import client_context, server_context
from jobmaster.certs.folder import CLIENT_AUTHORITY, SERVER, SERVER_AUTHORITY, certificate_path, key_path
from jobmaster.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    Context = Callable[[Path], ssl.SSLContext]


def client1_context(folder: Path) -> ssl.SSLContext:
    """Return the context of client1."""
    return client_context(folder, "client1")


SIDES = pytest.mark.parametrize(
    ("context", "who", "authority"),
    [
        pytest.param(server_context, SERVER, CLIENT_AUTHORITY, id="server"),
        pytest.param(client1_context, "client1", SERVER_AUTHORITY, id="client"),
    ],
)


def encrypted(folder: Path, who: str) -> bytes:
    """Return the key of `who` in encrypted PEM."""
    return load_pair(folder, who).key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )


@SIDES
def test_settings(folder: Path, context: Context, who: str, authority: str) -> None:
    """Both sides speak TLS 1.3 alone at security level 2, ask for a certificate and trust one authority."""
    made = context(folder)
    assert made.minimum_version == made.maximum_version == ssl.TLSVersion.TLSv1_3
    assert made.security_level == 2
    assert made.verify_mode is ssl.CERT_REQUIRED
    assert not made.post_handshake_auth
    trusted = ssl.PEM_cert_to_DER_cert(certificate_path(folder, authority).read_text())
    assert made.get_ca_certs(binary_form=True) == [trusted]


def test_client_checks_the_host(folder: Path) -> None:
    """A client checks the server's name, and not in the common name."""
    made = client1_context(folder)
    assert made.check_hostname
    assert not made.hostname_checks_common_name


class WeakDefaults(ssl.SSLContext):
    """A context as a distribution that allows everything would hand it out."""

    def __new__(cls, protocol: ssl._SSLMethod) -> Self:
        """Make a context with no security level and every version of TLS."""
        made = super().__new__(cls, protocol)
        made.set_ciphers("ALL:@SECLEVEL=0")
        made.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        return made


@SIDES
def test_weak_defaults_do_not_matter(
    folder: Path, context: Context, who: str, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a distribution whose defaults allow everything both sides are as strict as elsewhere."""
    # A copy of the module's names: its own code looks SSLContext up, and would find the subclass.
    monkeypatch.setattr(credentials, "ssl", types.SimpleNamespace(**{**vars(ssl), "SSLContext": WeakDefaults}))
    test_settings(folder, context, who, authority)


def test_the_client_needs_no_cryptography(folder: Path) -> None:
    """A client's context is made without importing cryptography, which costs more than all the rest of it."""
    program = (
        "import sys; from pathlib import Path; from jobmaster.certs.credentials import client_context;"
        f"client_context(Path({str(folder)!r}), 'client1'); print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("since_now", "complaint"),
    [
        (
            LEAF_LIFETIME + datetime.timedelta(minutes=1),
            r"server1_cert\.pem expired at \d{4}-\d\d-\d\d \d\d:\d\d UTC: put",
        ),
        (
            datetime.timedelta(days=-1),
            r"client_ca_cert\.pem is not valid before \d{4}-\d\d-\d\d \d\d:\d\d UTC: set this host's clock right",
        ),
        (datetime.timedelta(days=3651), r"client_ca_cert\.pem expired at"),
    ],
)
def test_server_out_of_its_time(folder: Path, since_now: datetime.timedelta, complaint: str) -> None:
    """A server whose certificate, or whose clients' authority, is out of its validity period gets no context."""
    with pytest.raises(ConfigurationError, match=complaint):
        server_context(folder, now=datetime.datetime.now(datetime.UTC) + since_now)


def test_server_that_may_be_out_of_its_time(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where its jobs would die with it, it has a context, and the operator is told the same."""
    now = datetime.datetime.now(datetime.UTC) + LEAF_LIFETIME + datetime.timedelta(minutes=1)
    server_context(folder, now=now, must_be_valid=False)
    assert re.search(r"server1_cert\.pem expired at .* and send the service SIGHUP", caplog.text)


def test_server_at_the_ends_of_its_time(folder: Path) -> None:
    """The first and the last moment of the validity period belong to it (RFC 5280, 4.1.2.5)."""
    certificate = load_pair(folder, SERVER).certificate
    server_context(folder, now=certificate.not_valid_before_utc)
    server_context(folder, now=certificate.not_valid_after_utc)


def test_one_valid_authority_is_enough(folder: Path) -> None:
    """An expired authority in the file beside a valid one, as after a renewal, does no harm."""
    file = certificate_path(folder, CLIENT_AUTHORITY)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=4000)
    expired = make_authority("jobmaster client authority", now=past).certificate
    file.write_bytes(expired.public_bytes(serialization.Encoding.PEM) + file.read_bytes())
    server_context(folder)


@SIDES
@pytest.mark.parametrize("bits", [0o777, 0o770, 0o720, 0o702, 0o1777])
def test_folder_that_others_may_write(folder: Path, context: Context, who: str, authority: str, bits: int) -> None:
    """A folder in which others could exchange the keys is refused by name, with the command that puts it right."""
    folder.chmod(bits)
    with pytest.raises(
        ConfigurationError, match=rf"{folder} can be written by others \(mode {bits:04o}\).*chmod go-w {folder}"
    ):
        context(folder)


@SIDES
def test_folder_of_somebody_else(folder: Path, context: Context, who: str, authority: str) -> None:
    """A folder of a user who is neither this one nor root is refused, with its owner and the remedy."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(folder, 65534, 65534)
    with pytest.raises(ConfigurationError, match=rf"{folder} belongs to another user \(uid 65534\).*chown 0 {folder}"):
        context(folder)


@SIDES
def test_folder_that_others_may_read(folder: Path, context: Context, who: str, authority: str) -> None:
    """A folder that others may enter and list is taken, by way of a symbolic link too."""
    folder.chmod(0o755)
    link = folder.with_name("link")
    link.symlink_to(folder)
    context(link)


@SIDES
@pytest.mark.parametrize("kind", ["certificate", "key", "authority"])
def test_missing_file(folder: Path, context: Context, who: str, authority: str, kind: str) -> None:
    """A missing file is named, with the command that makes it."""
    files = {
        "certificate": certificate_path(folder, who),
        "key": key_path(folder, who),
        "authority": certificate_path(folder, authority),
    }
    files[kind].unlink()
    with pytest.raises(ConfigurationError, match=rf"{files[kind]} is missing: `python -m jobmaster.certs init`"):
        context(folder)


@SIDES
def test_key_open_to_others(folder: Path, context: Context, who: str, authority: str) -> None:
    """A key that group or world may read is refused by name."""
    key_path(folder, who).chmod(0o640)
    with pytest.raises(ConfigurationError, match=rf"chmod 600 {key_path(folder, who)}"):
        context(folder)


@SIDES
def test_key_of_another(folder: Path, context: Context, who: str, authority: str) -> None:
    """A key that does not belong to the certificate is refused, and both files are named."""
    key_path(folder, who).write_bytes(key_path(folder, "client2").read_bytes())
    with pytest.raises(ConfigurationError, match=rf"{who}_key\.pem does not belong to .*{who}_cert\.pem"):
        context(folder)


@SIDES
@pytest.mark.parametrize("junk", [b"", b"junk\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_junk(folder: Path, context: Context, who: str, authority: str, junk: bytes) -> None:
    """A file that does not hold what it has to is refused by name."""
    for file in (certificate_path(folder, who), key_path(folder, who), certificate_path(folder, authority)):
        before = file.read_bytes()
        file.write_bytes(junk)
        with pytest.raises(ConfigurationError, match=rf"{file} holds no"):
            context(folder)
        file.write_bytes(before)


@SIDES
def test_leaf_instead_of_authority(folder: Path, context: Context, who: str, authority: str) -> None:
    """A leaf's certificate in the authority's file is refused: nobody could be verified with it."""
    certificate_path(folder, authority).write_bytes(certificate_path(folder, "client2").read_bytes())
    with pytest.raises(ConfigurationError, match="holds no authority's certificate"):
        context(folder)


@SIDES
def test_encrypted_key_asks_nobody(folder: Path, context: Context, who: str, authority: str) -> None:
    """An encrypted key is refused by name; no password is asked for on the terminal."""
    key_path(folder, who).write_bytes(encrypted(folder, who))
    with pytest.raises(ConfigurationError, match=rf"{who}_key\.pem is encrypted"):
        context(folder)


@SIDES
def test_text_round_the_certificates(folder: Path, context: Context, who: str, authority: str) -> None:
    """Text before a certificate, as `openssl x509 -text` writes it and not ASCII alone, does no harm."""
    for file in (certificate_path(folder, who), certificate_path(folder, authority)):
        file.write_bytes("Aussteller: Größe\n".encode() + file.read_bytes())
    assert len(context(folder).get_ca_certs()) == 1


@pytest.mark.parametrize("name", ["", "../client1", "Client1"])
def test_name_of_a_client(folder: Path, name: str) -> None:
    """A name that is not canonical leads to no file."""
    with pytest.raises(ConfigurationError, match="is not a client name"):
        client_context(folder, name)


@SIDES
def test_descriptors_are_closed(folder: Path, context: Context, who: str, authority: str) -> None:
    """A context keeps no file open, whether it could be made or not."""
    context(folder)
    before = len(os.listdir("/proc/self/fd"))
    context(folder)
    key_path(folder, who).chmod(0o644)
    with pytest.raises(ConfigurationError):
        context(folder)
    assert len(os.listdir("/proc/self/fd")) == before
