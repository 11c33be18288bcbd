"""What a server tells of itself, and to whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Final, cast

import pytest

from jobmaster.api.followers import Followers
from jobmaster.api.jobs import JobService
from jobmaster.api.server_info import ServerFacts, server_info
from jobmaster.identity.policy import Identity, Role
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.run.draining import Drain
from jobmaster.run.registry import Registry

FACTS: Final = ServerFacts(
    version="1.2.3",
    kernel="6.1.0",
    enforcement=(
        ("cpu", None),
        ("io", "this host binds the io controller to cgroup v1"),
        ("memory", "the memory controller is not delegated to /sys/fs/cgroup/a: Permission denied"),
    ),
    max_jobs=1000,
    output_max=None,
    grace_seconds=0.5,
)
USER: Final = Identity(name="client1", role=Role.USER)
ADMIN: Final = Identity(name="superuser", role=Role.ADMIN)


@pytest.mark.parametrize("caller", [USER, ADMIN])
def test_what_is_told(caller: Identity) -> None:
    """The server, the caller as the server knows it, its bounds and its use."""
    info = server_info(FACTS, caller, running=3, most_running=250)
    assert (info.version, info.kernel, info.client, info.role) == ("1.2.3", "6.1.0", caller.name, caller.role.value)
    assert (info.running_jobs, info.max_jobs_of_client, info.max_jobs, info.grace_seconds) == (3, 250, 1000, 0.5)
    assert [(each.controller, each.enforced) for each in info.enforcement] == [
        ("cpu", True),
        ("io", False),
        ("memory", False),
    ]


def test_paths_of_the_host_are_for_admins() -> None:
    """A user is told why a limit is not enforced, without a path."""
    of_user, of_admin = (
        [each.reason for each in server_info(FACTS, caller, running=0, most_running=1).enforcement]
        for caller in (USER, ADMIN)
    )
    assert of_admin == [reason or "" for _, reason in FACTS.enforcement]
    assert of_user == [*of_admin[:2], "the server's cgroup does not have the controller"]


@pytest.mark.parametrize(("kept", "told"), [(None, 0), (4096, 4096)])
def test_how_much_output_is_kept(kept: int | None, told: int) -> None:
    """0 stands for all."""
    assert server_info(ServerFacts(output_max=kept), USER, running=0, most_running=1).output_max == told


def test_the_callers_own_jobs_are_counted() -> None:
    """The call asks for those of who calls."""
    registry = SimpleNamespace(
        running_of=lambda caller: 7 if caller == USER else 0,
        most_running_of=lambda caller: 9 if caller == USER else 0,
        starts_refused=None,
    )
    service = JobService(cast(Registry, registry), Followers(), FACTS)
    assert service.ServerInfo(pb.ServerInfoRequest(), USER).running_jobs == 7
    assert service.ServerInfo(pb.ServerInfoRequest(), USER).max_jobs_of_client == 9
    assert service.ServerInfo(pb.ServerInfoRequest(), ADMIN).running_jobs == 0


def test_a_server_that_takes_no_jobs() -> None:
    """It says since when, until when, who said so and why."""
    at = datetime(2026, 1, 2, 12, tzinfo=UTC)
    drain = Drain(note="why", by="superuser", at=at, until=at + timedelta(hours=1))
    told = server_info(FACTS, USER, running=0, most_running=9, draining=drain)
    assert (told.draining.note, told.draining.by) == ("why", "superuser")
    assert told.draining.until.seconds - told.draining.since.seconds == 3600
    assert not server_info(FACTS, USER, running=0, most_running=9).HasField("draining")
