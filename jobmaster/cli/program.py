"""From arguments to an exit status."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import assert_never

from jobmaster.cli.actions import Audit, Command, Doctor, InstallUnit, Text
from jobmaster.cli.arguments import is_as_a_job, parse
from jobmaster.cli.descriptors import OutputFailed, complain, hold_standard_descriptors, write_text
from jobmaster.cli.exit_status import DONE, FAILED, OURS, USAGE
from jobmaster.cli.parser import UsageError
from jobmaster.errors import ConfigurationError, JobmasterError


def run(arguments: Sequence[str]) -> int:
    """Do what a command line asks for; return the exit status."""
    hold_standard_descriptors()
    failed, usage = (OURS, OURS) if is_as_a_job(arguments) else (FAILED, USAGE)
    try:
        asked = parse(arguments)
        match asked:
            case Text(text):
                write_text(text)
            case Command():
                return _perform(asked)
            case Audit():
                from jobmaster.cli.auditing import show_audit

                show_audit(asked)
            case Doctor():
                from jobmaster.cli.host import show_findings

                return show_findings(asked)
            case InstallUnit():
                from jobmaster.cli.host import install_unit

                install_unit(asked)
            case unreachable:
                assert_never(unreachable)
    except UsageError as error:
        complain(str(error))
        return usage
    except OutputFailed as failure:
        if not failure.reader_left:
            complain(f"jobmaster: {failure}\n")
        return failed
    except JobmasterError as error:
        complain(f"jobmaster: {error}\n")
        return usage if isinstance(error, ConfigurationError) else failed
    except Exception as error:  # noqa: BLE001  # whatever it is, 1 would be taken for the job's own status
        complain(f"jobmaster: a bug in the client, please report it: {error!r}\n")
        return failed
    return DONE


def _perform(command: Command) -> int:
    """Import what calls need, then make the call; return the exit status."""
    from jobmaster.cli.verbs import perform

    gc.freeze()
    gc.enable()
    return perform(command)
