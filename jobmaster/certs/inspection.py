"""What the certificates of a folder are, whether they are of use or not; no private key is looked at."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from jobmaster.certs.folder import certificate_path
from jobmaster.certs.key_files import REPLACE_THEM, read
from jobmaster.errors import CertificateRefused, ConfigurationError
from jobmaster.identity.certificate import Validity, read_certificate

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIX: Final = "_cert.pem"
_NEVER: Final = datetime.datetime.fromtimestamp(0, datetime.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFile:
    """A file of certificates: one, or an authority's several, of which the best one counts.

    Attributes:
        who: whose it is: an authority's, the server's or a client's name.
        fault: why it is of no use, with the remedy; then the moments mean nothing.
    """

    who: str
    not_before: datetime.datetime = _NEVER
    not_after: datetime.datetime = _NEVER
    fault: str | None = None

    @property
    def name(self) -> str:
        """The file's."""
        return f"{self.who}{_SUFFIX}"

    def validity(self, now: datetime.datetime) -> Validity:
        """Where `now`, aware, lies to its period."""
        if now < self.not_before:
            return Validity.NOT_YET
        return Validity.EXPIRED if now > self.not_after else Validity.VALID


def names_in(folder: Path) -> tuple[str, ...]:
    """Whose certificates the folder has, sorted; none where it cannot be read."""
    try:
        return tuple(
            sorted(file.name.removesuffix(_SUFFIX) for file in folder.iterdir() if file.name.endswith(_SUFFIX))
        )
    except OSError:
        return ()


def inspect(folder: Path, who: str, now: datetime.datetime) -> CertificateFile:
    """One of them, as it is of use at `now`."""
    file = certificate_path(folder, who)
    try:
        found = [
            read_certificate(each.public_bytes(Encoding.DER)) for each in x509.load_pem_x509_certificates(read(file))
        ]
    except ConfigurationError as error:
        return CertificateFile(who=who, fault=str(error))
    except CertificateRefused as error:
        return CertificateFile(who=who, fault=f"{file}: {error}: {REPLACE_THEM}")
    except ValueError:
        return CertificateFile(who=who, fault=f"{file} holds no sound certificate in PEM: {REPLACE_THEM}")
    best = max(found, key=lambda facts: (facts.validity(now) is Validity.VALID, facts.not_after))
    return CertificateFile(who=who, not_before=best.not_before, not_after=best.not_after)
