"""Where the certificate folder is, and how its files are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobmaster.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVER_AUTHORITY: Final = "server_ca"
"""The authority that signs the server's certificate, and that clients trust."""

CLIENT_AUTHORITY: Final = "client_ca"
"""The authority that signs clients' certificates, and that the server trusts."""

SERVER: Final = "server1"
"""The server's own certificate and key."""

SYSTEM_FOLDER: Final = Path("/etc/jobmaster/certs")


def certificate_path(folder: Path, who: str) -> Path:
    """Return the file in `folder` that holds the certificate of `who`: an authority, the server or a client."""
    return folder / f"{who}_cert.pem"


def key_path(folder: Path, who: str) -> Path:
    """Return the file in `folder` that holds the private key of `who`."""
    return folder / f"{who}_key.pem"


def certificate_folder(explicit: Path | None = None) -> Path:
    """Return the certificate folder of this process: `explicit` if given, else the default of this host and user.

    Raises:
        ConfigurationError: There is no default because the user has no home folder.
    """
    if explicit is not None:
        return explicit
    package = Path(__file__).resolve().parents[1]
    return choose_folder(checkout=checkout_of(package), environment=os.environ, is_root=os.geteuid() == 0)


def choose_folder(*, checkout: Path | None, environment: Mapping[str, str], is_root: bool) -> Path:
    """Choose the default certificate folder: a checkout's ``certs``, the system's as root, the user's.

    A relative ``XDG_CONFIG_HOME`` is ignored, as the XDG Base Directory Specification asks.

    Raises:
        ConfigurationError: Neither ``XDG_CONFIG_HOME`` nor ``HOME`` names a folder.
    """
    if checkout is not None:
        return checkout / "certs"
    if is_root:
        return SYSTEM_FOLDER
    return _user_configuration(environment) / "jobmaster" / "certs"


def checkout_of(package: Path) -> Path | None:
    """Return the folder round `package` if it is a checkout of jobmaster, known by its ``pyproject.toml``."""
    try:
        text = (package.parent / "pyproject.toml").read_text(encoding="utf-8")
        import tomllib  # an installed package has no such file, and does without

        project = tomllib.loads(text)
    except (OSError, ValueError):  # absent, unreadable, not UTF-8 or not TOML: nothing that we are a checkout of
        return None
    match project:
        case {"project": {"name": "jobmaster"}}:
            return package.parent
        case _:
            return None


def _user_configuration(environment: Mapping[str, str]) -> Path:
    configured = Path(environment.get("XDG_CONFIG_HOME", ""))
    if configured.is_absolute():
        return configured
    home = Path(environment.get("HOME", ""))
    if home.is_absolute():
        return home / ".config"
    raise ConfigurationError("HOME and XDG_CONFIG_HOME name no folder: name the certificate folder explicitly")
