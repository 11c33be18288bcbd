"""`doctor` and `install-unit`: of the host itself, for the operator of its server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jobmaster import __version__
from jobmaster.cli.actions import Doctor, InstallUnit
from jobmaster.cli.descriptors import write_notice, write_text
from jobmaster.cli.exit_status import DONE, FAILED
from jobmaster.doctor.examination import examine
from jobmaster.errors import ConfigurationError
from jobmaster.server.configuration import load
from jobmaster.server.findings import as_json, as_table, is_fit
from jobmaster.server.options import CommandLine, parse_command_line
from jobmaster.server.preparation import is_run_as_root
from jobmaster.unit.installation import FOLDER, install, require_importable
from jobmaster.unit.text import NAME, Unit, unit_text

if TYPE_CHECKING:
    from pathlib import Path


def show_findings(asked: Doctor) -> int:
    """Writes what is found; returns the exit status.

    Raises:
        ConfigurationError: the configuration file is wrong.
        OutputFailed: standard output did not take it.
    """
    findings = examine(load(parse_command_line(asked.options, "jobmaster doctor")).options)
    write_text(as_json(findings, __version__) if asked.as_json else as_table(findings))
    return DONE if is_fit(findings) else FAILED


def install_unit(asked: InstallUnit) -> None:
    """Writes the unit, or prints it.

    Raises:
        ConfigurationError: its server could not be started so, or another unit is there.
        HostError: it cannot be written.
        OutputFailed: standard output did not take it.
    """
    text = _unit(parse_command_line(asked.options, "jobmaster install-unit"))
    if asked.only_print:
        write_text(text)
        return
    folder = asked.folder or FOLDER
    is_new = install(text, folder, may_replace=asked.force)
    write_text(f"{folder / NAME}\n")
    todo = "systemctl daemon-reload && systemctl enable --now jobmaster"
    write_notice(f"jobmaster: now run: {todo}\n" if is_new else "jobmaster: it was there already, as it is\n")


def _unit(command: CommandLine) -> str:
    """Of a server with this command line, and what its file says as well."""
    if command.only_checks:
        raise ConfigurationError("--check-config: a unit is of a server that serves")
    _require_absolute("--config", command.config)
    options = load(command).options
    _require_absolute("--certs-dir", options.certificates)
    _require_absolute("--cgroup-root", options.cgroup_root)
    require_importable(sys.executable)
    return unit_text(
        Unit(
            command=(sys.executable, "-P", "-m", "jobmaster.serve", *command.arguments),
            grace_seconds=options.grace_seconds,
            port=options.port,
            makes_certificates=options.certificates is None,
            jobs_are_root=is_run_as_root(options.run_as),
        )
    )


def _require_absolute(option: str, path: Path | None) -> None:
    """A unit's server runs in another folder than whoever asks for the unit."""
    if path is not None and not path.is_absolute():
        raise ConfigurationError(f"{option} {path}: in a unit it is an absolute path")
