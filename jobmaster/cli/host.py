"""`doctor` and `install-unit`: of the host itself, for the operator of its server."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from jobmaster import __version__
from jobmaster.cli.actions import Doctor, InstallUnit
from jobmaster.cli.descriptors import write_notice, write_text
from jobmaster.cli.exit_status import DONE, FAILED
from jobmaster.doctor.examination import examine_all
from jobmaster.errors import ConfigurationError
from jobmaster.server.checking import unusable
from jobmaster.server.configuration import load
from jobmaster.server.findings import as_json, as_table, is_fit
from jobmaster.server.options import DEFAULT_CONFIG, CommandLine, ServerOptions, parse_command_line
from jobmaster.server.preparation import is_run_as_root
from jobmaster.unit.installation import FOLDER, install, require_importable
from jobmaster.unit.text import NAME, Unit, unit_text

if TYPE_CHECKING:
    from pathlib import Path


def show_findings(asked: Doctor) -> int:
    """Writes what is found; returns the exit status.

    Raises:
        ConfigurationError: the options say too little.
        OutputFailed: standard output did not take it.
    """
    findings = examine_all(parse_command_line(asked.options, "jobmaster doctor"))
    write_text(as_json(findings, __version__) if asked.as_json else as_table(findings))
    return DONE if is_fit(findings) else FAILED


def install_unit(asked: InstallUnit) -> None:
    """Writes the unit, or prints it.

    Raises:
        ConfigurationError: its server could not be started so, or another unit is there.
        HostError: it cannot be written.
        OutputFailed: standard output did not take it.
    """
    command = _command(asked.options)
    options = load(command).options
    text = _unit(command, options)
    problems = unusable(options) if os.geteuid() == 0 else []
    if asked.only_print:
        write_text(text)
        for problem in problems:
            write_notice(f"jobmaster: its server would not start: {problem}\n")
        return
    if problems:
        raise ConfigurationError(f"its server would not start: {'; '.join(problems)}")
    folder = asked.folder or FOLDER
    is_new = install(text, folder, may_replace=asked.force)
    write_text(f"{folder / NAME}\n")
    todo = "systemctl daemon-reload && systemctl enable --now jobmaster"
    write_notice(f"jobmaster: now run: {todo}\n" if is_new else "jobmaster: it was there already, as it is\n")


def _command(words: tuple[str, ...]) -> CommandLine:
    """Of a server that root starts on this host, whoever asks for its unit."""
    command = parse_command_line(words, "jobmaster install-unit")
    if command.only_checks:
        raise ConfigurationError("--check-config: a unit is of a server that serves")
    _require_absolute("--config", command.config)
    if command.config is None and os.path.lexists(DEFAULT_CONFIG):
        return replace(command, config=DEFAULT_CONFIG)
    return command


def _unit(command: CommandLine, options: ServerOptions) -> str:
    """Of a server with this command line, and these options with what its file says as well."""
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
