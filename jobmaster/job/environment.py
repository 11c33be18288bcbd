"""What a caller gives a job beside its words: environment variables, whose values often are secrets, and a working folder. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from jobmaster.errors import InvalidRequest

MOST_VARIABLES: Final = 256
MOST_NAME_BYTES: Final = 8192
"""Of all names of a job together, which its record keeps."""
MOST_FOLDER_BYTES: Final = 4095
"""PATH_MAX of Linux, without its NUL."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_OURS: Final = "JOBMASTER_"

Environment = tuple[tuple[str, str], ...]
"""Names and values, in the order of the names, each of which is there once."""


def checked_environment(pairs: Iterable[tuple[str, str]]) -> Environment:
    """The variables that these are; no error shows a value.

    Raises:
        InvalidRequest: they are too many; or one cannot be given to a job, which is named.
    """
    environment = tuple(sorted(pairs))
    if len(environment) > MOST_VARIABLES:
        raise InvalidRequest(f"more than {MOST_VARIABLES} environment variables", field="environment")
    for name, value in environment:
        field = f"environment[{name[:80]}]"
        if _NAME.fullmatch(name) is None:
            raise InvalidRequest(
                f"{name[:80]!r} is no name of an environment variable: it begins with a letter or _ and has up to 128 "
                "letters, digits and _.-",
                field=field,
            )
        if name.startswith(_OURS):
            raise InvalidRequest(f"{name} is given by the server: choose a name without {_OURS}", field=field)
        if "\0" in value:
            raise InvalidRequest(f"the value of {name} contains a NUL byte, which no Linux variable can", field=field)
    if sum(len(name) for name, _ in environment) > MOST_NAME_BYTES:
        raise InvalidRequest(
            f"the names of all environment variables together are {MOST_NAME_BYTES} bytes at most", field="environment"
        )
    return environment


def size_of(environment: Environment) -> int:
    """Bytes that the variables take of what the kernel has for them and the arguments (execve(2)), NULs included."""
    return sum(len(name) + len(value.encode("utf-8", "surrogateescape")) + 2 for name, value in environment)


def check_folder(folder: str) -> None:
    """Looks whether this can be a working folder; whether there is such a one, the job's process finds out.

    Raises:
        InvalidRequest: it cannot.
    """
    if not folder:
        return
    if not folder.startswith("/"):
        raise InvalidRequest("working_folder is no absolute path: it has to begin with /", field="working_folder")
    if "\0" in folder or len(folder.encode("utf-8", "surrogateescape")) > MOST_FOLDER_BYTES:
        raise InvalidRequest(
            "working_folder contains a NUL byte, or is longer than a path can be", field="working_folder"
        )
