"""What a server is to run with: its command line over its file; and what of a new file may take the place of what is in force.

Theory of operation
-------------------
The file is read at a server's start, and again at SIGHUP. What is in force is kept as a file of the same form in the state folder,
for the case that a server dies, or hands over, while somebody's new file is broken: a server that follows another has its jobs,
which no typing error may cost their lives. So it goes on with what was in force. A first server has none, and refuses.

Once a file was in force, its absence says nothing: a tool may be about to write it. And a file without clients says no more than
that it is not whole yet, where there were some before: the clients that are built in, an administrator among them, come in where
no file was ever in force that names others.

Some things stay for as long as there are servers that follow one another (`fixed`): where the journal and the jobs are. Others stay
for the life of one server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jobmaster.errors import ConfigurationError
from jobmaster.identity.policy import DEFAULT_POLICY, Policy
from jobmaster.server.client_schema import CLIENTS
from jobmaster.server.config_file import kept_text, read_file
from jobmaster.server.options import DEFAULT_CONFIG, CommandLine, ServerOptions, options_of
from jobmaster.server.schema import SETTINGS, FileSettings, Setting, read_settings, render
from jobmaster.server.toml_text import printable, shown, value_text

LIVE_FIELDS: Final = (
    "verbose",
    "output_max",
    "output_folder_max",
    "output_free",
    "keep_jobs",
    "keep_for",
    "policy",
    "terms",
)
"""Of `ServerOptions`, what a running server takes up."""
ADDRESS_FIELDS: Final = ("host", "port")
LASTING_FIELDS: Final = ("output_folder", "cgroup_root", "work_folder")
"""What servers that follow one another have in common: the first one's."""
LASTING_KEYS: Final = ("folders.output", "folders.cgroup_root", "folders.work")
"""The same as keys of the file."""
MOST_NAMED: Final = 20
"""Clients that are named in a line of the log."""
_FILE_LINE: Final = "# in force, of the file "
_NO_FILE_LINE: Final = "# in force, of no file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a server runs with.

    Attributes:
        options: of the server.
        file: what they are of, beside the command line; None where there was none.
    """

    options: ServerOptions
    file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of what is in force.

    Attributes:
        configuration: in force from now on.
        declined: what of the new one is not, for people.
    """

    configuration: Configuration
    declined: tuple[str, ...]


def load(command: CommandLine, before: Configuration | None = None) -> Configuration:
    """What the command line and the file say. Blocks as long as the file's disk does.

    Args:
        command: the command line.
        before: what was in force; None for a first server.

    Raises:
        ConfigurationError: the file is not there, or cannot be used; it is named, with what is wrong and where.
    """
    path = config_path(command)
    try:
        text = None if path is None else read_file(path)
        if path is None or text is None:
            _require_none_before(command, before)
            return Configuration(options=_options(command, FileSettings({}, {}, None)), file=None)
        settings = read_settings(text)
        _require_clients(settings.policy, before)
        return Configuration(options=_options(command, settings), file=path)
    except ConfigurationError as error:
        raise ConfigurationError(f"configuration {printable(path)}: {error}" if path else str(error)) from None


def config_path(command: CommandLine) -> Path | None:
    """The file of a server, whether it is there or not; None where there is to be none."""
    if command.config is not None:
        return command.config
    return DEFAULT_CONFIG if os.geteuid() == 0 else None


def _require_none_before(command: CommandLine, before: Configuration | None) -> None:
    """Whether it may be that there is no file."""
    if before is not None and before.file is not None:
        raise ConfigurationError("it was in force, and is not there: put it back")
    if command.config is not None:
        raise ConfigurationError("there is no such file")


def _require_clients(policy: Policy | None, before: Configuration | None) -> None:
    if policy is None and before is not None and before.options.policy != DEFAULT_POLICY:
        raise ConfigurationError(
            f"it has no [{CLIENTS}], and what is in force has: where those that are built in are to come in, name them"
        )


def _options(command: CommandLine, settings: FileSettings) -> ServerOptions:
    try:
        return options_of(command.arguments, settings.values, settings.policy, settings.terms)
    except (ConfigurationError, ValueError) as error:
        raise ConfigurationError(_blamed(settings, str(error))) from None


def _blamed(settings: FileSettings, why: str) -> str:
    """What is wrong with the key that it is wrong with by itself."""
    for name, value in settings.values.items():
        try:
            options_of((), {"output_dir": Path("/"), name: value})
        except (ConfigurationError, ValueError) as error:
            return f"{settings.keys[name]}: {error}"
    return why


# --- what of it takes the place of what is in force -------------------------------------------------------------------


def taken_up(before: Configuration, after: Configuration) -> Change:
    """What a running server makes of a new configuration: what it can take up without another server."""
    fields = {name: getattr(after.options, name) for name in LIVE_FIELDS}
    if not before.options.output_bounds.are_any:  # nothing counts what outputs take then
        fields |= {name: getattr(before.options, name) for name in ("output_folder_max", "output_free")}
    options = replace(before.options, **fields)
    return Change(
        configuration=Configuration(options=options, file=after.file or before.file),
        declined=tuple(f"{each}, which {_needed(setting)}" for setting, each in differences(options, after.options)),
    )


def followed_up(before: Configuration, after: Configuration, *, keeps_address: bool = False) -> Change:
    """What a server that follows another one makes of it: all but where the jobs and the journal are.

    Args:
        before: what was in force.
        after: what the file says.
        keeps_address: it cannot listen anywhere else than the one before.
    """
    lasting = (*LASTING_FIELDS, *ADDRESS_FIELDS) if keeps_address else LASTING_FIELDS
    fields = {name: getattr(before.options, name) for name in lasting}
    options = replace(after.options, **fields)
    return Change(
        configuration=replace(after, options=options),
        declined=tuple(f"{each}, which needs a restart" for _, each in differences(options, after.options)),
    )


def differences(old: ServerOptions, new: ServerOptions) -> Iterator[tuple[Setting, str]]:
    """The settings in which options differ, each with both values, for people; not the clients."""
    for setting in SETTINGS:
        values = setting.value_of(old), setting.value_of(new)
        if values[0] != values[1]:
            before, after = ("not set" if value is None else shown(value_text(value)) for value in values)
            yield setting, f"{setting.key} is {before}, and not {after}"


def _needed(setting: Setting) -> str:
    return "needs a restart" if setting.key in LASTING_KEYS else "needs another server (SIGUSR2)"


def clients_changed(before: Policy, after: Policy) -> str:
    """Who comes and goes, for people; empty where nobody does."""
    old, new = ({each.name: each.role for each in policy.identities} for policy in (before, after))
    words = [
        _named("new", [name for name in new if name not in old]),
        _named("gone", [name for name in old if name not in new]),
        _named("in another role", [name for name in new if name in old and old[name] is not new[name]]),
    ]
    return "; ".join(filter(None, words))


def terms_changed(before: ServerOptions, after: ServerOptions) -> str:
    """Which clients that stay have other terms, for people; empty where none has."""
    names = {each.name for each in before.policy.identities} & {each.name for each in after.policy.identities}
    return _named("on other terms", [name for name in names if before.terms.get(name) != after.terms.get(name)])


def _named(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{what}: {', '.join(sorted(names)[:MOST_NAMED])}{more}"


# --- what is kept for the next server -------------------------------------------------------------------------------------


def kept_form(configuration: Configuration) -> str:
    """What is in force as text, and of which file it is."""
    file = configuration.file
    first = _NO_FILE_LINE if file is None else f"{_FILE_LINE}{value_text(str(file))}"
    return f"{first}\n{render(configuration.options)}"


def load_kept(command: CommandLine, folder: int) -> Configuration | None:
    """What a server before kept in the state folder, of which this is a descriptor; None where it kept nothing.

    Raises:
        ConfigurationError: it cannot be read, or is not what a server keeps.
    """
    text = kept_text(folder)
    if text is None:
        return None
    settings = read_settings(text)
    if settings.policy is None:
        raise ConfigurationError("what was in force is not whole")
    return Configuration(options=_options(command, settings), file=_kept_file(command, text))


def _kept_file(command: CommandLine, text: str) -> Path | None:
    return config_path(command) if text.startswith(_FILE_LINE) else None
