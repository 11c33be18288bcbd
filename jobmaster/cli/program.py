"""From arguments to an exit status."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Final, assert_never

from jobmaster.cli.arguments import Command, Text, UsageError, parse
from jobmaster.cli.descriptors import OutputFailed, complain, hold_standard_descriptors, write_text
from jobmaster.errors import ConfigurationError, JobmasterError

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2


def run(arguments: Sequence[str]) -> int:
    """Do what a command line asks for; return the exit status."""
    hold_standard_descriptors()
    try:
        asked = parse(arguments)
        match asked:
            case Text(text):
                write_text(text)
            case Command():
                _perform(asked)
            case unreachable:
                assert_never(unreachable)
    except UsageError as error:
        complain(str(error))
        return USAGE
    except OutputFailed as failure:
        if not failure.reader_left:
            complain(f"jobmaster: {failure}\n")
        return FAILED
    except JobmasterError as error:
        complain(f"jobmaster: {error}\n")
        return USAGE if isinstance(error, ConfigurationError) else FAILED
    return DONE


def _perform(command: Command) -> None:
    """Import what calls need, then make the call."""
    from jobmaster.cli.verbs import perform

    gc.freeze()
    gc.enable()
    perform(command)
