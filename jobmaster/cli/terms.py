"""The terms of a job as `Jobs.start` takes them, with what they take from this program's environment."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobmaster.cli.limit_options import limits_message
from jobmaster.client.masking import is_text

if TYPE_CHECKING:
    from jobmaster.cli.actions import Terms


class NoSuchVariable(Exception):
    """A variable that the job was to be given is not there, or cannot be given; the text says which, without its value."""


def start_arguments(terms: Terms) -> dict[str, Any]:
    """The keywords of a start.

    Raises:
        NoSuchVariable: as it says.
    """
    environment = dict(_variable(*each) for each in terms.environment)
    return {**asdict(terms), "environment": environment, "limits": limits_message(terms.limits)}


def _variable(name: str, value: str | None) -> tuple[str, str]:
    if value is None and (value := os.environ.get(name)) is None:
        raise NoSuchVariable(f"-e {name}: there is no such environment variable here; say -e {name}=VALUE")
    if not is_text(value):
        raise NoSuchVariable(f"-e {name}: its value is not UTF-8: a server takes nothing else")
    return name, value
