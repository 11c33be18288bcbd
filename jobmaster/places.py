"""Where a server keeps what it keeps, unless its user says so; for those who read it as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jobmaster.errors import ConfigurationError


def default_output_folder(environment: Mapping[str, str], *, is_root: bool) -> Path:
    """Where output is kept unless the user says so (XDG Base Directory Specification for users).

    Raises:
        ConfigurationError: the user has no home folder.
    """
    if is_root:
        return Path("/var/lib/jobmaster")
    state = Path(environment.get("XDG_STATE_HOME", ""))
    if state.is_absolute():
        return state / "jobmaster"
    home = Path(environment.get("HOME", ""))
    if home.is_absolute():
        return home / ".local" / "state" / "jobmaster"
    raise ConfigurationError("HOME and XDG_STATE_HOME name no folder: give --output-dir")
