"""``python -m jobmaster.certs``: make, issue and show the certificates by which clients and the server know each other."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobmaster.certs.authority import DEFAULT_CLIENTS, initialise, issue, names_of_this_host
from jobmaster.certs.folder import certificate_folder
from jobmaster.certs.key_files import MAKE_THEM, read, require_sound_folder
from jobmaster.errors import CertificateRefused, ConfigurationError, JobmasterError
from jobmaster.identity.certificate import CertificateFacts, Validity, identify, read_certificate
from jobmaster.identity.policy import DEFAULT_POLICY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUCCESS: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it

_DESCRIPTION: Final = """\
Make, issue and show the certificates of a jobmaster server and its clients.

The server and each client prove who they are with a certificate (TLS 1.3, both
ways). Two authorities sign them: one the server's, which clients trust, and one
the clients', which the server trusts. A client's name is what follows
"jobmaster-" in its certificate's common name.
"""

_EPILOG: Final = """\
folder:
  DIR, if it is given. Else, in a checkout of jobmaster, its certs folder; else
  /etc/jobmaster/certs for root, and $XDG_CONFIG_HOME/jobmaster/certs (by default
  ~/.config/jobmaster/certs) for any other user.

files:
  server_ca_cert.pem  server_ca_key.pem   signs the server; clients trust it
  client_ca_cert.pem  client_ca_key.pem   signs clients; the server trusts it
  server1_cert.pem    server1_key.pem     the server's own
  NAME_cert.pem       NAME_key.pem        a client's own

  A client's machine needs server_ca_cert.pem and the client's own two files. The
  keys of the authorities are needed by init and issue alone: whoever has one can
  pose as any client, superuser too, or as the server.

exit status:
  0  done
  1  the host failed: a file could not be written or read
  2  wrong usage, or something to put right first: a file exists already, is
     missing, or is open to others
"""

_INIT: Final = f"""\
Make two new authorities, the server's certificate and those of {", ".join(DEFAULT_CLIENTS)}.

Keys are ECDSA P-384. Authorities are valid for ten years, the others for one.
The folder gets mode 0700, keys 0600. Nothing is written when one of the files
exists, unless --force is given: then all are replaced, and no certificate made
before is accepted any more. Prints the files written, one a line.
"""

_ISSUE: Final = """\
Make a certificate and key for the client NAME, signed by the folder's client
authority and valid for a year. Prints the two files written, one a line.

With --force the client's files are replaced. A certificate it had before stays
valid until it expires.
"""

_SHOW: Final = """\
Print one line for each certificate in the folder: its file, subject, role by the
server's default policy, key, validity (UTC; marked where the certificate is not
yet or no longer valid) and SHA-256 fingerprint.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (by default the process's) and return the exit status."""
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:  # of standard output: a full disk or device, a limit of file sizes
        _chatter(f"standard output: {error.strerror}")
        _drop_rest()
        return FAILED


def _drop_rest() -> None:
    """Let the interpreter's end not try again to write what was not taken."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if sys.stdout is None:
            raise ConfigurationError("standard output is closed: there is nowhere to print the files")
        folder = certificate_folder(options.folder)
        match options.command:
            case "init":
                return _init(folder, options.host, force=options.force)
            case "issue":
                return _issue(folder, options.name, force=options.force)
            case _:
                return _show(folder)
    except ConfigurationError as error:
        _chatter(str(error))
        return MISUSED
    except (JobmasterError, OSError) as error:
        _chatter(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _init(folder: Path, hosts: Iterable[str], *, force: bool) -> int:
    _print_files(initialise(folder, force=force, hosts=[*names_of_this_host(), *hosts]))
    return SUCCESS


def _issue(folder: Path, name: str, *, force: bool) -> int:
    _print_files(issue(folder, name, force=force))
    try:
        DEFAULT_POLICY.identify(name)
    except CertificateRefused:
        _chatter(
            f"warning: {name} is not in the default policy: a server refuses it unless its configuration has "
            f"[clients.{name}]"
        )
    return SUCCESS


def _show(folder: Path) -> int:
    files = sorted(folder.glob("*_cert.pem"))
    if not files:
        raise ConfigurationError(f"{folder} holds no certificate: {MAKE_THEM}")
    require_sound_folder(folder)
    now = datetime.datetime.now(datetime.UTC)
    rows = []
    for file in files:
        try:
            rows.append(_row(file, now))
        except (CertificateRefused, ConfigurationError) as error:
            _chatter(f"{file.name}: {error}")
    _print_table(rows)
    return SUCCESS if len(rows) == len(files) else FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One line of what `show` prints; a field a column."""

    file: str
    subject: str
    role: str
    key: str
    valid_from: str
    valid_until: str
    fingerprint: str


_HEADINGS: Final = _Row(
    file="FILE",
    subject="SUBJECT",
    role="ROLE",
    key="KEY",
    valid_from="VALID FROM",
    valid_until="VALID UNTIL",
    fingerprint="SHA-256",
)


def _row(file: Path, now: datetime.datetime) -> _Row:
    try:
        certificate = x509.load_pem_x509_certificate(read(file))
    except ValueError as error:
        raise CertificateRefused(f"no certificate in PEM: {error}") from error
    der = certificate.public_bytes(serialization.Encoding.DER)
    facts = read_certificate(der)
    validity = facts.validity(now)
    return _Row(
        file=file.name,
        subject=facts.subject,
        role=_role(der, facts),
        key=facts.key.description,
        valid_from=f"{facts.not_before:%Y-%m-%d %H:%M}{' (not yet valid)' if validity is Validity.NOT_YET else ''}",
        valid_until=f"{facts.not_after:%Y-%m-%d %H:%M}{' (expired)' if validity is Validity.EXPIRED else ''}",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _role(der: bytes, facts: CertificateFacts) -> str:
    """Name the part a certificate plays: authority, server, or the role that the default policy gives a client."""
    if facts.is_authority:
        return "authority"
    if ExtendedKeyUsageOID.SERVER_AUTH in (facts.extended_key_usages or ()):
        return "server"
    try:
        return identify(der, DEFAULT_POLICY).role.value
    except CertificateRefused:
        return "refused"


def _print_table(rows: Sequence[_Row]) -> None:
    if not rows:
        return
    lines = [[_printable(cell) for cell in astuple(row)] for row in (_HEADINGS, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def _printable(text: str) -> str:
    """Return `text` with what a terminal might obey, or the table not survive, written as an escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _print_files(files: Iterable[Path]) -> None:
    sys.stdout.writelines(f"{file}\n" for file in files)


def _chatter(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"jobmaster.certs: {text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobmaster.certs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    initial = _command(commands, "init", "make the authorities and the default certificates", _INIT)
    initial.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name or IP address the server is reached by, beside localhost and the host's own names; "
        "may be given more than once",
    )
    issuing = _command(commands, "issue", "make a certificate for one more client", _ISSUE, named=True)
    for changing in (initial, issuing):
        changing.add_argument("--force", action="store_true", help="replace files that exist")
    _command(commands, "show", "list the certificates of the folder", _SHOW)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    word: str,
    summary: str,
    description: str,
    *,
    named: bool = False,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        word,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if named:
        parser.add_argument("name", metavar="NAME", help="the client: a-z, 0-9 and hyphens, 54 characters at most")
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", type=Path, help="the certificate folder; the main --help tells the default"
    )
    return parser
