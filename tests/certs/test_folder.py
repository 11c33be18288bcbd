"""Where the certificate folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobmaster.certs.folder import certificate_folder, certificate_path, checkout_of, choose_folder, key_path
from jobmaster.errors import ConfigurationError

HOME = {"HOME": "/home/someone"}


def test_explicit_folder_wins() -> None:
    """A folder that was named is taken, whatever the default."""
    assert certificate_folder(Path("here")) == Path("here")


def test_checkout_comes_before_the_host() -> None:
    """In a checkout the default is its certs folder, for root too."""
    chosen = choose_folder(checkout=Path("/checkout"), environment=HOME, is_root=True)
    assert chosen == Path("/checkout/certs")


def test_root() -> None:
    """The default of root is the system's folder."""
    assert choose_folder(checkout=None, environment=HOME, is_root=True) == Path("/etc/jobmaster/certs")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        (HOME, "/home/someone/.config/jobmaster/certs"),
        ({**HOME, "XDG_CONFIG_HOME": "/elsewhere"}, "/elsewhere/jobmaster/certs"),
        ({**HOME, "XDG_CONFIG_HOME": ""}, "/home/someone/.config/jobmaster/certs"),
        ({**HOME, "XDG_CONFIG_HOME": "relative"}, "/home/someone/.config/jobmaster/certs"),
    ],
)
def test_user(environment: dict[str, str], folder: str) -> None:
    """The default of a user is below the XDG configuration folder; a relative one does not count."""
    assert choose_folder(checkout=None, environment=environment, is_root=False) == Path(folder)


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_user_without_home(environment: dict[str, str]) -> None:
    """A user without a home folder is asked to name the folder."""
    with pytest.raises(ConfigurationError, match="explicitly"):
        choose_folder(checkout=None, environment=environment, is_root=False)


def test_this_checkout() -> None:
    """The package knows that it runs from a checkout, if a pyproject.toml of jobmaster lies beside it."""
    checkout = Path(__file__).parents[2]
    assert checkout_of(checkout / "jobmaster") == checkout
    assert certificate_folder() == checkout / "certs"


@pytest.mark.parametrize(
    "project",
    [
        None,
        b"",
        b"not toml [",
        b"\xff\xfe",
        b'name = "jobmaster"\n',
        b'project = "jobmaster"\n',
        b'[project]\nname = "x"\n',
    ],
)
def test_no_checkout(tmp_path: Path, project: bytes | None) -> None:
    """A folder without a pyproject.toml that names jobmaster is no checkout of it."""
    if project is not None:
        (tmp_path / "pyproject.toml").write_bytes(project)
    assert checkout_of(tmp_path / "jobmaster") is None


def test_file_names() -> None:
    """The files of the folder are called after who they belong to."""
    assert certificate_path(Path("/certs"), "client1") == Path("/certs/client1_cert.pem")
    assert key_path(Path("/certs"), "client1") == Path("/certs/client1_key.pem")
