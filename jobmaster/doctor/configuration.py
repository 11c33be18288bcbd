"""The configuration file and the address that it or the command line names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobmaster.errors import ConfigurationError
from jobmaster.server.checking import require_address
from jobmaster.server.configuration import config_path, load
from jobmaster.server.findings import Finding, Verdict
from jobmaster.server.options import options_of
from jobmaster.server.toml_text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from jobmaster.server.options import CommandLine, ServerOptions


def options_to_examine(command: CommandLine) -> tuple[ServerOptions, Finding]:
    """What a server with this command line would run with; where its file is broken, what the command line alone says.

    Raises:
        ConfigurationError: the command line itself says too little.
    """
    try:
        configuration = load(command)
    except ConfigurationError as error:
        fault = Finding(topic="configuration", verdict=Verdict.MISSING, text=str(error))
        return options_of(command.arguments, {}), fault
    return configuration.options, of_configuration(configuration.file, config_path(command))


def of_configuration(used: Path | None, place: Path | None) -> Finding:
    """Which file there is.

    Args:
        used: the one that was read.
        place: where one would be read.
    """
    if used is not None:
        text = f"{printable(used)} can be used"
    elif place is not None:
        text = f"there is no {printable(place)}: the clients that are built in may connect"
    else:
        text = "no file: the clients that are built in may connect"
    return Finding(topic="configuration", verdict=Verdict.OK, text=text)


def look_at_address(host: str, port: int) -> tuple[str | None, bool]:
    """Why a server could not listen there, if so; and whether that is only since somebody does. Blocks as name servers do."""
    try:
        require_address(host, port, may_be_in_use=True)
    except ConfigurationError as error:
        return str(error), False
    try:
        require_address(host, port, may_be_in_use=False)
    except ConfigurationError as error:
        return str(error), True
    return None, False


def of_address(host: str, port: int, fault: str | None, *, is_in_use: bool, has_server: bool) -> Finding:
    """Whether a server can listen there; `has_server`: one has this output folder, and may be the one that does."""
    topic, place = "address", f"{host}:{port}"
    if fault is None:
        return Finding(topic=topic, verdict=Verdict.OK, text=f"a server can listen on {place}")
    if is_in_use and has_server:
        text = f"{place} is in use, as it is where the server that has the output folder listens there"
        return Finding(topic=topic, verdict=Verdict.OK, text=text)
    if is_in_use:
        remedy = f"see who has it with `ss -ltnp sport = :{port}`, or name another with --listen"
        return Finding(topic=topic, verdict=Verdict.MISSING, text=f"{place} is in use", remedy=remedy)
    return Finding(topic=topic, verdict=Verdict.MISSING, text=fault)
