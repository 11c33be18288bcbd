"""`doctor` and `install-unit`: of the host itself, for the operator of its server."""

from __future__ import annotations

import sys

from jobmaster import __version__
from jobmaster.cli.actions import Doctor, InstallUnit
from jobmaster.cli.descriptors import write_notice, write_text
from jobmaster.cli.exit_status import DONE, FAILED
from jobmaster.doctor.examination import examine
from jobmaster.errors import ConfigurationError
from jobmaster.server.configuration import load
from jobmaster.server.findings import as_json, as_table, is_fit
from jobmaster.server.options import ServerOptions, parse_command_line
from jobmaster.server.preparation import is_run_as_root
from jobmaster.unit.installation import FOLDER, install, require_importable
from jobmaster.unit.text import NAME, Unit, unit_text


def show_findings(asked: Doctor) -> int:
    """Writes what is found; returns the exit status.

    Raises:
        ConfigurationError: the configuration file is wrong.
        OutputFailed: standard output did not take it.
    """
    findings = examine(_options(asked.options, "jobmaster doctor"))
    write_text(as_json(findings, __version__) if asked.as_json else as_table(findings))
    return DONE if is_fit(findings) else FAILED


def install_unit(asked: InstallUnit) -> None:
    """Writes the unit, or prints it.

    Raises:
        ConfigurationError: its server could not be started so, or another unit is there.
        HostError: it cannot be written.
        OutputFailed: standard output did not take it.
    """
    text = _unit(_options(asked.options, "jobmaster install-unit"), asked.options)
    if asked.only_print:
        write_text(text)
        return
    folder = asked.folder or FOLDER
    is_new = install(text, folder, may_replace=asked.force)
    write_text(f"{folder / NAME}\n")
    todo = "systemctl daemon-reload && systemctl enable --now jobmaster"
    write_notice(f"jobmaster: now run: {todo}\n" if is_new else "jobmaster: it was there already, as it is\n")


def _options(words: tuple[str, ...], program: str) -> ServerOptions:
    """Of a server with this command line, on this host: what its file says as well."""
    return load(parse_command_line(words, program)).options


def _unit(options: ServerOptions, words: tuple[str, ...]) -> str:
    if options.certificates is not None and not options.certificates.is_absolute():
        raise ConfigurationError(f"--certs-dir {options.certificates}: in a unit it is an absolute path")
    require_importable(sys.executable)
    return unit_text(
        Unit(
            command=(sys.executable, "-P", "-m", "jobmaster.serve", *words),
            grace_seconds=options.grace_seconds,
            port=options.port,
            makes_certificates=options.certificates is None,
            jobs_are_root=is_run_as_root(options),
        )
    )
