"""The packages and the one direction of the imports between them, read from the import statements."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

import jobmaster

PACKAGE: Final = Path(jobmaster.__file__).parent

# What each package or module may import of the others; each may import itself.
ARROWS: Final[dict[str, set[str]]] = {
    "__init__": set(),
    "address": set(),
    "ending": set(),
    "errors": set(),
    "places": {"errors"},
    "sizes": set(),
    "jobs": set(),
    "standard": set(),
    "identity": {"errors"},
    "certs": {"__init__", "errors", "identity"},
    "output": {"errors", "threads"},
    "http2": {"errors"},
    "wire": {"http2"},
    "grpc": {"errors", "http2", "wire"},
    "job": {"errors"},
    "journal": {"errors", "job", "threads"},
    "audit": {"errors", "job", "journal", "threads"},
    "host": {"errors", "job", "sizes"},
    "launcher": set(),
    "threads": {"errors"},
    "run": {"errors", "host", "identity", "job", "journal", "launcher", "output", "sizes", "threads"},
    "api": {"audit", "errors", "grpc", "identity", "job", "jobs", "journal", "output", "run", "standard"},
    "client": {"certs", "errors", "grpc", "jobs"},
    "server": {
        *{
            "__init__",
            "address",
            "api",
            "audit",
            "certs",
            "ending",
            "errors",
            "grpc",
            "host",
            "identity",
            "job",
            "journal",
        },
        *{"launcher", "places", "run", "sizes", "threads", "wire"},
    },
    "unit": {"errors"},
    "doctor": {"certs", "errors", "host", "launcher", "run", "server", "sizes"},
    "cli": {
        *{"__init__", "address", "audit", "certs", "client", "doctor", "ending", "errors", "grpc", "jobs", "places"},
        *{"server", "sizes", "unit"},
    },
    "serve": set(),
    "__main__": {"cli"},
}

# Packages that stay behind one module or room, or in generated code.
DOORS: Final[dict[str, set[str]]] = {
    "google.protobuf": {"api", "cli", "client", "grpc", "jobs", "standard"},
    "hpack": {"http2"},
    "apsw": {"journal"},
    "cryptography": {"certs", "identity"},
    "google.rpc": {"grpc"},
    "purerpc": {"grpc/purerpc_adapter.py", "jobs", "standard"},
}

PURE: Final = (
    "address.py",
    "ending.py",
    "errors.py",
    "places.py",
    "sizes.py",
    "cli/actions.py",
    "cli/arguments.py",
    "cli/limit_options.py",
    "cli/parser.py",
    "cli/exit_status.py",
    "cli/presentation.py",
    "cli/detaching.py",
    "cli/durations.py",
    "cli/screen_modes.py",
    "cli/tables.py",
    "unit/installation.py",
    "unit/text.py",
    "doctor/cgroups.py",
    "doctor/clock.py",
    "doctor/kernel.py",
    "doctor/locks.py",
    "doctor/resources.py",
    "doctor/storage.py",
    "doctor/systemd.py",
    "server/findings.py",
    "server/judgements.py",
    "server/options.py",
    "certs/inspection.py",
    "server/config_file.py",
    "server/configuration.py",
    "server/schema.py",
    "server/client_schema.py",
    "server/file_values.py",
    "run/client_terms.py",
    "run/quotas.py",
    "host/cgroup/totals.py",
    "server/signals.py",
    "server/toml_text.py",
    "job/specification.py",
    "job/identifier.py",
    "job/cause.py",
    "job/state.py",
    "job/record.py",
    "job/request.py",
    "job/run_time.py",
    "job/environment.py",
    "job/labels.py",
    "job/signals.py",
    "job/stop_terms.py",
    "job/limits.py",
    "job/secret.py",
    "job/terminal.py",
    "audit/entry.py",
    "audit/names.py",
    "audit/scan.py",
    "journal/age.py",
    "journal/codec.py",
    "journal/stored.py",
    "output/cap.py",
    "output/sharing.py",
    "run/ledger.py",
    "run/limits.py",
    "run/rooms.py",
    "run/bounds.py",
    "run/uid_book.py",
    "output/index.py",
    "output/index_search.py",
    "host/account.py",
    "host/process.py",
    "host/uid_range.py",
    "host/user_ids.py",
    "host/work_folder.py",
    "grpc/framing.py",
    "grpc/headers.py",
    "grpc/memory.py",
    "grpc/methods.py",
    "grpc/status_details.py",
    "wire/lifetime.py",
    "client/limits.py",
    "client/masking.py",
    "client/patience.py",
    "client/resumption.py",
    "identity/names.py",
    "identity/policy.py",
    "identity/certificate.py",
    "certs/authority.py",
    "certs/folder.py",
    "api/events.py",
    "api/messages.py",
    "api/queries.py",
    "api/requests.py",
    "api/server_info.py",
    "api/statuses.py",
    "api/subjects.py",
)


def imports(source: str, *, types_too: bool) -> Iterator[str]:
    """The full names that a module imports, anywhere in it; those for the type checker alone only if asked for."""
    tree = ast.parse(source)
    for_types = {id(inner) for node in ast.walk(tree) if is_type_checking(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in for_types and not types_too:
            continue
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom(level=level) if level > 0:
                raise AssertionError(f"line {node.lineno}: a relative import hides where the arrow goes")


def is_type_checking(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return True
    return False


def room_of(name: str) -> str | None:
    """The room of ours that a full name is in, None for others' packages."""
    match name.split("."):
        case ["jobmaster", part, *_]:
            return part if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file() else "__init__"
        case ["jobmaster"]:
            return "__init__"
        case _:
            return None


@cache
def imports_of(module: Path | str, *, types_too: bool) -> frozenset[str]:
    """What a module of the package imports; it is parsed once for all who ask."""
    return frozenset(imports(read(module), types_too=types_too))


def modules() -> list[Path]:
    """Every module of the package, as paths in it."""
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(module: Path) -> str:
    """The room that a module is in."""
    return module.parts[0].removesuffix(".py")


def read(module: Path | str) -> str:
    """The source of a module."""
    return (PACKAGE / module).read_text(encoding="utf-8")


def test_every_room_has_its_place() -> None:
    """Each module belongs to a room of the table above, and each room of the table is there."""
    assert {room(module) for module in modules()} == ARROWS.keys()


def test_arrows_make_no_circle() -> None:
    """The table itself has one direction."""
    graphlib.TopologicalSorter(ARROWS).prepare()


@pytest.mark.parametrize("module", modules(), ids=str)
def test_arrows_point_inwards(module: Path) -> None:
    """A module imports its own room and those that the table allows, for the type checker too."""
    met = {room_of(name) for name in imports_of(module, types_too=True)} - {None}
    assert met - ARROWS[room(module)] - {room(module)} == set()


@pytest.mark.parametrize("package", DOORS)
def test_packages_behind_one_door(package: str) -> None:
    """A package that has a door is imported behind it alone."""
    users = {
        module
        for module in modules()
        for name in imports_of(module, types_too=True)
        if f"{name}.".startswith(f"{package}.")
    }
    assert users
    assert {str(module) for module in users if not {room(module), str(module)} & DOORS[package]} == set()


@pytest.mark.parametrize(
    "module",
    [
        *PURE,
        *(str(module) for module in modules() if module.parts[0] == "http2" or module.parts[:2] == ("host", "cgroup")),
    ],
)
def test_pure_modules_know_nothing_of_trio(module: str) -> None:
    """A module that decides and does not wait imports no event loop."""
    assert (PACKAGE / module).is_file()
    names = {name.partition(".")[0] for name in imports_of(module, types_too=False)}
    assert names & {"trio", "anyio", "asyncio"} == set()


def test_what_counts_as_an_import() -> None:
    """Imports are found at the top and in functions; those for the type checker are told apart."""
    source = """
from __future__ import annotations
import trio.abc, os
if TYPE_CHECKING:
    from jobmaster.api import jobs as service
def later():
    from jobmaster import serve, __version__
"""
    now = {"__future__.annotations", "trio.abc", "os", "jobmaster.serve", "jobmaster.__version__"}
    assert set(imports(source, types_too=False)) == now
    assert set(imports(source, types_too=True)) == now | {"jobmaster.api.jobs"}
    assert [room_of(name) for name in sorted(now)] == [None, "__init__", "serve", None, None]
    with pytest.raises(AssertionError, match="relative"):
        list(imports("from . import rpc", types_too=True))
