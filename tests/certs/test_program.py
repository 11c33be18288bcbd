"""The command line of ``python -m jobmaster.certs``."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from jobmaster.certs.authority import load_pair
from jobmaster.certs.folder import SERVER, certificate_path, key_path
from jobmaster.certs.program import main
from tests.certs.hostile_certificates import CLIENT_ROWS, make_server, mint

if TYPE_CHECKING:
    from pathlib import Path

Captured = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("no_resolver")


def test_init(tmp_path: Path, capsys: Captured) -> None:
    """`init DIR` makes the folder, prints each file it wrote on a line of its own, and exits 0."""
    certs = tmp_path / "certs"
    assert main(["init", str(certs)]) == 0
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == sorted(str(path) for path in certs.iterdir())
    assert err == ""


def test_init_twice(folder: Path, capsys: Captured) -> None:
    """A second `init` exits 2, naming the file and --force, and with --force exits 0."""
    assert main(["init", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "exists already: give --force" in err
    assert str(folder) in err
    before = certificate_path(folder, SERVER).read_bytes()
    assert main(["init", str(folder), "--force"]) == 0
    assert certificate_path(folder, SERVER).read_bytes() != before


def test_init_host(tmp_path: Path) -> None:
    """`init --host` adds names and addresses to the host's own."""
    certs = tmp_path / "certs"
    assert main(["init", "--host", "jobs.example", "--host", "192.0.2.7", str(certs)]) == 0
    names = load_pair(certs, SERVER).certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "host", "host.example", "jobs.example"]
    assert "192.0.2.7" in map(str, names.get_values_for_type(x509.IPAddress))


def test_issue_known_name(folder: Path, capsys: Captured) -> None:
    """`issue` prints the two files, and says nothing more of a name the default policy knows."""
    assert main(["issue", "client1", str(folder), "--force"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(certificate_path(folder, "client1")), str(key_path(folder, "client1"))]
    assert err == ""


def test_issue_unknown_name(folder: Path, capsys: Captured) -> None:
    """`issue` warns on standard error that the default policy would refuse the name, and makes the files."""
    assert main(["issue", "backup", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "backup is not in the default policy" in err
    assert key_path(folder, "backup").exists()


def test_issue_bad_name(folder: Path, capsys: Captured) -> None:
    """`issue` exits 2 for what is no name of a client."""
    assert main(["issue", "../evil", str(folder)]) == 2
    assert "'../evil' is not a client name" in capsys.readouterr().err


def table(out: str) -> dict[str, list[str]]:
    """Return the cells of what `show` printed, by the file they are about."""
    return {cells[0]: cells[1:] for cells in ([cell for cell in line.split("  ") if cell] for line in out.splitlines())}


def test_show(folder: Path, capsys: Captured) -> None:
    """`show` prints a line a certificate with role, key, validity and the fingerprint openssl would print."""
    assert main(["show", str(folder)]) == 0
    rows = table(capsys.readouterr().out)
    certificate = load_pair(folder, "superuser").certificate
    assert [cell.strip() for cell in rows["superuser_cert.pem"]] == [
        "CN=jobmaster-superuser",
        "admin",
        "ECDSA P-384",
        f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M}",
        f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M}",
        certificate.fingerprint(hashes.SHA256()).hex(),
    ]
    roles = {file.removesuffix("_cert.pem"): cells[1].strip() for file, cells in rows.items() if file.endswith(".pem")}
    assert roles == {
        "client1": "user",
        "client2": "user",
        "client3": "user",
        "superuser": "admin",
        "server1": "server",
        "server_ca": "authority",
        "client_ca": "authority",
    }


def test_show_refused_client(folder: Path, capsys: Captured) -> None:
    """`show` says of a client the default policy does not know that it is refused."""
    main(["issue", "backup", str(folder)])
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    assert table(capsys.readouterr().out)["backup_cert.pem"][1].strip() == "refused"


@pytest.mark.parametrize(
    ("row", "column", "mark"), [("expired", 4, "(expired)"), ("not yet valid", 3, "(not yet valid)")]
)
def test_show_marks_what_is_not_valid(folder: Path, capsys: Captured, row: str, column: int, mark: str) -> None:
    """`show` marks the end of an expired certificate and the beginning of one that is not yet valid, and no others."""
    assert main(["show", str(make_server(folder, row))]) == 0
    out = capsys.readouterr().out
    assert table(out)["server1_cert.pem"][column].strip().endswith(mark)
    assert out.count("(") == 1


def test_show_open_folder(folder: Path, capsys: Captured) -> None:
    """`show` exits 2 for a folder that others may write, and says so once."""
    folder.chmod(0o777)
    assert main(["show", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("chmod go-w")) == ("", 1)


def test_show_unreadable_certificate(folder: Path, capsys: Captured) -> None:
    """A file without a certificate is named on standard error, the others are shown, and the exit status is 1."""
    certificate_path(folder, "client2").write_bytes(b"junk")
    assert main(["show", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert "client2_cert.pem: " in err
    assert "client2_cert.pem" not in out
    assert "client1_cert.pem" in out


def test_show_escapes(folder: Path, capsys: Captured) -> None:
    """What a terminal might obey is shown as an escape."""
    recipe = CLIENT_ROWS["no prefix"].recipe
    assert recipe is not None
    certificate, _key = mint(folder, type(recipe)(common_names=("\x1b[2Jevil",)))
    certificate_path(folder, "evil").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    main(["show", str(folder)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2Jevil" in out


@pytest.mark.parametrize("name", ["certs", "empty"])
def test_show_nothing(tmp_path: Path, capsys: Captured, name: str) -> None:
    """`show` exits 2 for a folder that is missing or empty, with the command that fills it."""
    (tmp_path / "empty").mkdir()
    assert main(["show", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "python -m jobmaster.certs init" in err


def test_host_failure(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the host does not write a file, the exit status is 1 and the folder stays empty."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["init", str(tmp_path / "certs")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert os.listdir(tmp_path / "certs") == []


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["issue"], ["init", "--unknown"], ["show", "--force"]])
def test_misuse(arguments: list[str]) -> None:
    """A command line that says nothing sensible exits 2."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


def test_help(capsys: Captured) -> None:
    """The help tells the default folder, every file and every exit status."""
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for told in ("/etc/jobmaster/certs", "XDG_CONFIG_HOME", "client_ca_key.pem", "server1_key.pem", "exit status"):
        assert told in text


def test_as_a_program(folder: Path) -> None:
    """`python -m jobmaster.certs` runs: its exit status is main's, data go to standard output, errors beside it."""
    command = [sys.executable, "-m", "jobmaster.certs", "show"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "client1_cert.pem" in done.stdout
    missing = subprocess.run([*command, str(folder / "no")], capture_output=True, text=True, check=False, timeout=60)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "Traceback" not in missing.stderr


def test_closed_standard_streams(folder: Path) -> None:
    """Where there is no standard output, that is said, if there is anybody to say it to."""
    command = f'exec "{sys.executable}" -m jobmaster.certs show "$1"'
    for redirection, words in ((">&-", "jobmaster.certs: standard output is closed"), (">&- 2>&-", "")):
        shell = ["sh", "-c", f"{command} {redirection}", "sh", str(folder)]
        done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith(words)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["argparse", "cryptography", "jobmaster.certs.authority"])
def test_interrupted_at_the_start(module: str) -> None:
    """Ctrl-C while the program still imports ends it with 130 and without a word."""
    program = f"""
import signal, sys

def interrupt(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        signal.raise_signal(signal.SIGINT)

sys.addaudithook(interrupt)
from jobmaster.certs.__main__ import run
run()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [  # where nothing is buffered, argparse of Python 3.12 and later passes over what its own writes meet
        (("--help",), ""),
        (("issue", "--help"), ""),
        (("show",), ""),
        (("show",), "1"),
    ],
)
def test_output_that_is_not_taken(folder: Path, arguments: tuple[str, ...], unbuffered: str) -> None:
    """A limit of file sizes is told in a line, and no traceback."""
    words = [*arguments, str(folder)] if arguments == ("show",) else [*arguments]
    command = [sys.executable, "-m", "jobmaster.certs", *words]
    with (folder / "out").open("wb") as out:
        done = subprocess.run(
            ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *command],
            stdout=out,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"jobmaster.certs: ")
    assert done.stderr.endswith(b"File too large\n")
    assert done.stderr.count(b"\n") == 1
