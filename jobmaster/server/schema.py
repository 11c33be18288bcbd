"""The keys of the configuration file: what each may hold, which option of the command line it stands for, and back to text. Pure.

An option and its key are read by one parser, the option's: a value of the file becomes the text that the option would have.
So the table here says of each key only what TOML may give for it. What is in force becomes a file again by `render`, which
loads to the same.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from jobmaster.errors import ConfigurationError
from jobmaster.identity.policy import Policy
from jobmaster.run.bounds import FreeSpace
from jobmaster.run.client_terms import ClientTerms
from jobmaster.server.client_schema import CLIENTS, client_lines, nearest_of_client, note_client, policy_of, terms_of
from jobmaster.server.file_values import ACTIONS, Kind, value_of_option, what
from jobmaster.server.options import ServerOptions
from jobmaster.server.toml_text import Scalar, key_text, shown, value_text
from jobmaster.sizes import UNLIMITED, size_text

LARGEST_FILE: Final = 64 * 1024
"""Bytes of a configuration, some thousand clients."""
MOST_DOTS: Final = 200
"""In a line: what tomllib does with a key takes time with the square of its dots."""
LONGEST_NAME: Final = 200
"""Characters of an unknown key that are compared with those that are known."""
MOST_TOLD: Final = 5
"""Mistakes that are named at a time."""
_SIMILAR: Final = 0.6


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file.

    Attributes:
        key: with its tables.
        option: of the command line, which wins.
        kind: what it may hold.
        value_of: what to write for a server that runs so; None where no value says it, and `unset` does.
        unset: what is so where the key is not there.
    """

    key: str
    option: str
    kind: Kind
    value_of: Callable[[ServerOptions], Scalar | None]
    unset: str = ""


def _size(value: int | None, none: Scalar = 0) -> Scalar:
    return none if value is None else size_text(value)


def _rate(value: float | None) -> Scalar:
    return UNLIMITED if value is None else value


def _free(free: FreeSpace) -> Scalar | None:
    if free.size is not None:
        return size_text(free.size) if free.percent is None else None
    return 0 if free.percent is None else f"{free.percent}%"


def _listen(options: ServerOptions) -> str:
    return f"[{options.host}]:{options.port}" if ":" in options.host else f"{options.host}:{options.port}"


def _path(path: object | None) -> str | None:
    return None if path is None else str(path)


SETTINGS: Final = (
    Setting("listen", "--listen", Kind.TEXT, _listen),
    Setting("verbose", "--verbose", Kind.SWITCH, lambda options: options.verbose),
    Setting("folders.output", "--output-dir", Kind.FOLDER, lambda options: str(options.output_folder)),
    Setting("folders.audit", "--audit-folder", Kind.FOLDER, lambda options: str(options.audit)),
    Setting(
        "folders.certificates",
        "--certs-dir",
        Kind.FOLDER,
        lambda options: _path(options.certificates),
        unset="certs/ of a checkout, /etc/jobmaster/certs as root, else $XDG_CONFIG_HOME/jobmaster/certs",
    ),
    Setting(
        "folders.cgroup_root",
        "--cgroup-root",
        Kind.FOLDER,
        lambda options: _path(options.cgroup_root),
        unset="the delegated cgroup of this service, else `jobmaster` at the top of the cgroup v2 mount",
    ),
    Setting(
        "folders.work",
        "--work-dir",
        Kind.FOLDER,
        lambda options: _path(options.work_folder),
        unset="the output folder's with -work behind its name, where the users of jobs can get there",
    ),
    Setting(
        "folders.work_free",
        "--work-free",
        Kind.SIZE,
        lambda options: _free(options.work_free),
        unset="5% of the disk, or 1G where that is less",
    ),
    Setting(
        "jobs.run_as",
        "--run-as",
        Kind.TEXT,
        lambda options: options.run_as,
        unset="a user of each client's own, where the server is root",
    ),
    Setting(
        "jobs.uid_range",
        "--uid-range",
        Kind.TEXT,
        lambda options: None if options.uid_range is None else str(options.uid_range),
        unset="2100000000-2100065535, where the server is root",
    ),
    Setting("jobs.max", "--max-jobs", Kind.COUNT, lambda options: options.max_jobs),
    Setting("jobs.grace", "--grace", Kind.SECONDS, lambda options: options.grace_seconds),
    Setting("jobs.oom_policy", "--oom-policy", Kind.TEXT, lambda options: options.oom_policy.value),
    Setting("limits.require", "--require-limits", Kind.SWITCH, lambda options: options.require_limits),
    Setting("limits.cpu_max", "--cpu-max", Kind.CORES, lambda options: _rate(options.limits.cpu_max)),
    Setting(
        "limits.memory_max", "--memory-max", Kind.SIZE, lambda options: _size(options.limits.memory_max, UNLIMITED)
    ),
    Setting("limits.pids_max", "--pids-max", Kind.RATE, lambda options: _rate(options.limits.pids_max)),
    Setting(
        "limits.io_device",
        "--iodevice-id",
        Kind.TEXT,
        lambda options: options.io_device,
        unset="the disk under the output folder",
    ),
    Setting(
        "limits.io_read_bps",
        "--io-read-bps",
        Kind.SIZE,
        lambda options: _size(options.limits.io.read_bps, UNLIMITED),
    ),
    Setting(
        "limits.io_write_bps",
        "--io-write-bps",
        Kind.SIZE,
        lambda options: _size(options.limits.io.write_bps, UNLIMITED),
    ),
    Setting("limits.io_read_iops", "--io-read-iops", Kind.RATE, lambda options: _rate(options.limits.io.read_iops)),
    Setting("limits.io_write_iops", "--io-write-iops", Kind.RATE, lambda options: _rate(options.limits.io.write_iops)),
    Setting("output.max", "--output-max", Kind.SIZE, lambda options: _size(options.output_max)),
    Setting(
        "output.folder_max",
        "--output-folder-max",
        Kind.SIZE,
        lambda options: _size(options.output_folder_max),
    ),
    Setting(
        "output.free",
        "--output-free",
        Kind.SIZE,
        lambda options: _free(options.output_free),
        unset="5% of the disk, or 1G where that is less",
    ),
    Setting("records.keep_jobs", "--keep-jobs", Kind.COUNT, lambda options: options.keep_jobs),
    Setting(
        "records.keep_days",
        "--keep-days",
        Kind.COUNT,
        lambda options: 0 if options.keep_for is None else options.keep_for.days,
    ),
    Setting("records.durability", "--durability", Kind.TEXT, lambda options: options.durability.name.lower()),
    Setting("restarts.max_gap", "--max-gap", Kind.COUNT, lambda options: options.max_gap_seconds),
    Setting("restarts.max_crashes", "--max-crashes", Kind.COUNT, lambda options: options.max_crashes),
    Setting("audit.size", "--audit-size", Kind.SIZE, lambda options: size_text(options.audit_size)),
    Setting("audit.files", "--audit-files", Kind.COUNT, lambda options: options.audit_files),
)
BY_KEY: Final = {setting.key: setting for setting in SETTINGS}
TABLES: Final = {*(setting.key.partition(".")[0] for setting in SETTINGS if "." in setting.key), CLIENTS}


@dataclass(frozen=True, slots=True)
class FileSettings:
    """What a file says.

    Attributes:
        values: by the names of the command line's parser, as it would have them.
        keys: the key of each.
        policy: the clients; None where the file has no table of them.
        terms: of the clients that have other ones than all.
    """

    values: Mapping[str, Any]
    keys: Mapping[str, str]
    policy: Policy | None
    terms: Mapping[str, ClientTerms] = field(default_factory=dict)


def read_settings(text: str) -> FileSettings:
    """What the text of a file says.

    Raises:
        ConfigurationError: it is no TOML, or has unknown keys or wrong values; each is named, some at a time.
    """
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    clients: dict[str, dict[str, object]] = {}
    document = _parse(text)
    for parts, value in _leaves(document):
        name = key_text(parts)
        try:
            if parts[0] == CLIENTS:
                note_client(clients, parts, value)
            elif (setting := BY_KEY.get(name)) is not None:
                action = ACTIONS[setting.option]
                values[action.dest] = value_of_option(setting.key, setting.kind, action, value)
                keys[action.dest] = name
            elif name not in TABLES:
                near = _nearest(name) if len(mistakes) < MOST_TOLD else ""  # which takes a millisecond
                raise ConfigurationError(f"unknown key {shown(name)}{near}")
            elif value != {}:
                raise ConfigurationError(f"{name} is {what(value)}: a table, [{name}], is needed")
        except ConfigurationError as mistake:
            mistakes.append(str(mistake))
    policy = policy_of(clients, mistakes) if CLIENTS in document else None
    terms = terms_of(clients, mistakes)
    if mistakes:
        more = f"; and {len(mistakes) - MOST_TOLD} more mistakes" if len(mistakes) > MOST_TOLD else ""
        raise ConfigurationError("; ".join(mistakes[:MOST_TOLD]) + more)
    return FileSettings(values, keys, policy, terms)


def _parse(text: str) -> dict[str, Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MOST_DOTS:
            raise ConfigurationError(f"line {number} has more than {MOST_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigurationError("lists or tables are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError with the line, and what int() says of very many digits
        raise ConfigurationError(f"no TOML: {shown(str(error))}") from None


def _leaves(document: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], object]]:
    """Each value with its full key; a table without keys is one."""
    pending: list[tuple[tuple[str, ...], object]] = [((key,), document[key]) for key in reversed(document)]
    while pending:
        parts, value = pending.pop()
        if isinstance(value, dict) and value:
            pending += [((*parts, key), value[key]) for key in reversed(value)]
        else:
            yield parts, value


def _nearest(name: str) -> str:
    names = [*BY_KEY] if "." in name else [*BY_KEY, *TABLES]
    match name.split("."):
        case [str(table), *rest] if (
            len(rest) > 1 and table not in TABLES and difflib.get_close_matches(table, [CLIENTS])
        ):
            names = nearest_of_client(rest[0])
    found = difflib.get_close_matches(name[:LONGEST_NAME], names, n=1, cutoff=_SIMILAR)
    return f": did you mean {shown(found[0])}?" if found else ""


# --- text -------------------------------------------------------------------------------------------------------------


def render(options: ServerOptions) -> str:
    """The file of a server that runs with these options and no others; it loads to the same."""
    lines: list[str] = []
    table = ""
    for setting in SETTINGS:
        of_table, _, name = setting.key.rpartition(".")
        if of_table != table:
            lines += ["", f"[{of_table}]"]
            table = of_table
        value = setting.value_of(options)
        if value is None:
            lines.append(f"# {name} is not set: {setting.unset}")
        else:
            lines.append(f"{name} = {value_text(value)}")
    lines += client_lines(options.policy, options.terms)
    return "\n".join(lines) + "\n"
