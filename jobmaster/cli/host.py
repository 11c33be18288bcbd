"""`doctor`: of the host itself, for the operator of its server."""

from __future__ import annotations

from jobmaster import __version__
from jobmaster.cli.actions import Doctor
from jobmaster.cli.descriptors import write_text
from jobmaster.cli.exit_status import DONE, FAILED
from jobmaster.doctor.examination import examine
from jobmaster.server.findings import as_json, as_table, is_fit
from jobmaster.server.options import parse


def show_findings(asked: Doctor) -> int:
    """Writes what is found; returns the exit status.

    Raises:
        OutputFailed: standard output did not take it.
    """
    findings = examine(parse(asked.options, "jobmaster doctor"))
    write_text(as_json(findings, __version__) if asked.as_json else as_table(findings))
    return DONE if is_fit(findings) else FAILED
