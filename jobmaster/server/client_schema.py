"""The keys of a client in the configuration file, ``[clients.NAME]``: what each may hold, and back to text. Pure."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from jobmaster.address import argument
from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.limits import Limits
from jobmaster.identity.policy import Identity, Policy, Role
from jobmaster.run.client_terms import COMMON_TERMS, ClientTerms
from jobmaster.run.quotas import MOST_STARTS, Quota, StartRate, default_burst
from jobmaster.server.file_values import ACTIONS, Kind, value_of_option, what
from jobmaster.server.options import limit_type, number
from jobmaster.server.toml_text import Scalar, key_text, shown, value_text
from jobmaster.sizes import UNLIMITED, parse_size, size_text

CLIENTS: Final = "clients"
ROLE: Final = "role"
_SIMILAR: Final = 0.6


@dataclass(frozen=True, slots=True)
class ClientSetting:
    """One key of a client, beside its role.

    Attributes:
        key: below ``clients.NAME``.
        kind: what it may hold.
        action: which parses it.
        value_of: what to write for a client of these terms; None: nothing.
    """

    key: str
    kind: Kind
    action: argparse.Action
    value_of: Callable[[ClientTerms], Scalar | None]


def _starts(key: str, value_of: Callable[[StartRate], int]) -> ClientSetting:
    parser = argument(number("starts", 1, MOST_STARTS))
    return ClientSetting(
        key,
        Kind.COUNT,
        argparse.Action([], key, type=parser),
        lambda terms: None if terms.quota.starts is None else value_of(terms.quota.starts),
    )


def _ceiling(name: str, option: str, kind: Kind) -> ClientSetting:
    """A ceiling, by its name in `Limits` or `IoLimits`, which is that of the key but for the disk's."""
    key = f"limits.{option.removeprefix('--').replace('-', '_')}"
    action = ACTIONS.get(option) or argparse.Action([], key, type=argument(limit_type(name, parse_size)))
    return ClientSetting(key, kind, action, lambda terms: _ceiling_text(terms, name, kind))


def _ceiling_text(terms: ClientTerms, name: str, kind: Kind) -> Scalar | None:
    if name not in terms.ceilings:
        return None
    value = terms.ceilings[name]
    if value is None:
        return UNLIMITED
    return size_text(int(value)) if kind is Kind.SIZE else value


def _total_text(name: str, kind: Kind, terms: ClientTerms) -> Scalar | None:
    value: float | None = getattr(terms.total, name)
    return size_text(int(value)) if kind is Kind.SIZE and value is not None else value


CEILINGS: Final = {
    setting.key: (setting, name)
    for name, setting in (
        (name, _ceiling(name, option, kind))
        for name, option, kind in (
            ("cpu_max", "--cpu-max", Kind.CORES),
            ("memory_max", "--memory-max", Kind.SIZE),
            ("swap_max", "--swap-max", Kind.SIZE),
            ("pids_max", "--pids-max", Kind.RATE),
            ("read_bps", "--io-read-bps", Kind.SIZE),
            ("write_bps", "--io-write-bps", Kind.SIZE),
            ("read_iops", "--io-read-iops", Kind.RATE),
            ("write_iops", "--io-write-iops", Kind.RATE),
        )
    )
}
"""The ceilings of a client's jobs: each with its name in `ClientTerms`."""
TOTALS: Final = {
    name: ClientSetting(f"total.{name}", kind, ACTIONS[f"--{name.replace('_', '-')}"], partial(_total_text, name, kind))
    for name, kind in (("cpu_max", Kind.CORES), ("memory_max", Kind.SIZE), ("pids_max", Kind.RATE))
}
"""What a client's jobs may have together, by the names of `Limits`."""
CLIENT_SETTINGS: Final = (
    ClientSetting("max_jobs", Kind.COUNT, ACTIONS["--max-jobs"], lambda terms: terms.quota.running),
    _starts("start_rate", lambda rate: rate.per_minute),
    _starts("start_burst", lambda rate: rate.burst),
    ClientSetting("run_as", Kind.TEXT, ACTIONS["--run-as"], lambda terms: terms.run_as),
    *(setting for setting, _ in CEILINGS.values()),
    *TOTALS.values(),
)
_BY_KEY: Final = {setting.key: setting for setting in CLIENT_SETTINGS}
CLIENT_KEYS: Final = (ROLE, *_BY_KEY)
_TABLES: Final = {setting.key.partition(".")[0] for setting in CLIENT_SETTINGS if "." in setting.key}

ClientKeys = dict[str, dict[str, object]]
"""The keys of each client, as the file has them."""


def nearest_of_client(name: str) -> list[str]:
    """All keys of a client, in full."""
    return [f"{CLIENTS}.{name}.{key}" for key in CLIENT_KEYS]


def note_client(clients: ClientKeys, parts: tuple[str, ...], value: object) -> None:
    """Notes a key below ``clients``, with its value.

    Raises:
        ConfigurationError: there is no such key, or it needs a table.
    """
    match parts, value:
        case (_,), {}:
            return
        case (_, name), {}:
            clients[name] = {}
        case (_, name, *rest), _ if key_text(rest) in CLIENT_KEYS:
            clients.setdefault(name, {})[key_text(rest)] = value
        case (_, name, table), {} if table in _TABLES:
            clients.setdefault(name, {})
        case (_, name, *rest), _ if rest:
            clients.setdefault(name, {})
            found = difflib.get_close_matches(key_text(rest)[:200], CLIENT_KEYS, n=1, cutoff=_SIMILAR) or [ROLE]
            near = f"{key_text((CLIENTS, name))}.{found[0]}"
            raise ConfigurationError(f"unknown key {shown(key_text(parts))}: did you mean {shown(near)}?")
        case _:
            needed = f'a table, [{CLIENTS}.NAME] with {ROLE} = "user" or "admin",'
            raise ConfigurationError(f"{shown(key_text(parts))} is {what(value)}: {needed} is needed")


def policy_of(clients: ClientKeys, mistakes: list[str]) -> Policy:
    """Who may connect; what is wrong with a client is added to the mistakes."""
    identities: list[Identity] = []
    for name, keys in clients.items():
        try:
            identities.append(_identity(name, keys))
        except ConfigurationError as mistake:
            mistakes.append(str(mistake))
    return Policy(identities=frozenset(identities))


def _identity(name: str, keys: Mapping[str, object]) -> Identity:
    key = shown(key_text((CLIENTS, name, ROLE)))
    role = keys.get(ROLE)
    if role not in [each.value for each in Role]:
        given = "is missing" if role is None else f"is {shown(repr(role)) if isinstance(role, str) else what(role)}"
        raise ConfigurationError(f'{key} {given}: "user" or "admin" is needed')
    try:
        return Identity(name=name, role=Role(role))
    except ConfigurationError as error:
        why = str(error).replace(repr(name), "the name")
        raise ConfigurationError(f"{shown(key_text((CLIENTS, name)))}: {why}") from None


def terms_of(clients: ClientKeys, mistakes: list[str]) -> dict[str, ClientTerms]:
    """The terms of those clients that have some of their own; what is wrong is added to the mistakes."""
    found: dict[str, ClientTerms] = {}
    for name, keys in clients.items():
        try:
            terms = _terms(name, keys)
        except ConfigurationError as mistake:
            mistakes.append(str(mistake))
            continue
        if terms != COMMON_TERMS:
            found[name] = terms
    return found


def _terms(name: str, keys: Mapping[str, object]) -> ClientTerms:
    where = shown(key_text((CLIENTS, name)))
    values = {
        key: value_of_option(f"{where}.{key}", _BY_KEY[key].kind, _BY_KEY[key].action, value)
        for key, value in keys.items()
        if key != ROLE
    }
    return ClientTerms(
        quota=Quota(running=values.get("max_jobs"), starts=_start_rate(where, values)),
        run_as=values.get("run_as"),
        ceilings={CEILINGS[key][1]: value for key, value in values.items() if key in CEILINGS},
        total=Limits(
            cpu_max=values.get("total.cpu_max"),
            memory_max=values.get("total.memory_max"),
            pids_max=values.get("total.pids_max"),
        ),
    )


def _start_rate(where: str, values: Mapping[str, Any]) -> StartRate | None:
    rate, burst = values.get("start_rate"), values.get("start_burst")
    if rate is None and burst is not None:
        raise ConfigurationError(f"{where}.start_burst is of no effect without a start_rate: give both")
    return None if rate is None else StartRate(per_minute=rate, burst=burst or default_burst(rate))


def client_lines(policy: Policy, terms: Mapping[str, ClientTerms]) -> Iterator[str]:
    """The lines of a file that say so."""
    yield from ("", f"[{CLIENTS}]")
    for identity in sorted(policy.identities, key=lambda each: each.name):
        yield from ("", f"[{key_text((CLIENTS, identity.name))}]", f"{ROLE} = {value_text(identity.role.value)}")
        own = terms.get(identity.name, COMMON_TERMS)
        for setting in CLIENT_SETTINGS:
            if (value := setting.value_of(own)) is not None:
                yield f"{setting.key} = {value_text(value)}"
