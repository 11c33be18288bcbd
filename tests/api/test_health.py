"""The health service by itself: what Check and Watch say, and when a watch ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest
import trio
import trio.testing

from jobmaster.api.health import HEALTH, MAX_REQUEST, HealthService
from jobmaster.api.statuses import ServiceUnknown
from jobmaster.errors import InvalidRequest, ServerDraining
from jobmaster.standard import health_pb2 as pb

SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    pb.HealthCheckResponse.SERVING,
    pb.HealthCheckResponse.NOT_SERVING,
    pb.HealthCheckResponse.SERVICE_UNKNOWN,
)


def about(service: str) -> pb.HealthCheckRequest:
    """A request about a service."""
    return pb.HealthCheckRequest(service=service)


def watch(health: HealthService, service: str = "") -> AsyncGenerator[pb.HealthCheckResponse, None]:
    """A watch as a generator that can be closed."""
    return cast("AsyncGenerator[pb.HealthCheckResponse, None]", health.Watch(about(service)))


async def follow(health: HealthService, service: str, heard: list[int]) -> None:
    """Notes what a watch says; -1 stands for its end by the server."""
    try:
        async with aclosing(watch(health, service)) as answers:
            async for answer in answers:
                heard.append(answer.status)  # noqa: PERF401  # what was heard before the error counts
    except ServerDraining:
        heard.append(-1)


def test_name() -> None:
    """The service has the standard's name and methods, by which clients find it."""
    service = HealthService([]).service
    assert service.name == HEALTH == "grpc.health.v1.Health"
    assert set(service.methods) == {"Check", "Watch"}


@pytest.mark.parametrize("service", ["", "a.Service"])
async def test_check(service: str) -> None:
    """The server and each service serve until the server drains."""
    health = HealthService(["a.Service"])
    before = await health.Check(about(service))
    health.drain()
    after = await health.Check(about(service))
    assert (before.status, after.status) == (SERVING, NOT_SERVING)


async def test_check_of_an_unknown_service() -> None:
    """A name that no service has is an error, whatever the state of the server."""
    health = HealthService(["a.Service"])
    with pytest.raises(ServiceUnknown):
        await health.Check(about("a.Servic"))
    health.drain()
    with pytest.raises(ServiceUnknown):
        await health.Check(about("a.Servic"))


async def test_watch_tells_each_change_once() -> None:
    """A watch says how things are at once, then each change, and nothing where nothing changed."""
    health, heard = HealthService(["a.Service"]), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, health, "a.Service", heard)
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [SERVING]
        health.drain()
        await trio.testing.wait_all_tasks_blocked()
        health.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [SERVING, NOT_SERVING]
        health.end()
    assert heard == [SERVING, NOT_SERVING, -1]


async def test_watch_of_an_unknown_service() -> None:
    """A watch of a service that there is not says so once, stays open, and ends with the server."""
    health, heard = HealthService(["a.Service"]), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, health, "another.Service", heard)
        await trio.testing.wait_all_tasks_blocked()
        health.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [SERVICE_UNKNOWN]
        health.end()
    assert heard == [SERVICE_UNKNOWN, -1]


async def test_slow_watcher_hears_the_last_state() -> None:
    """A client that takes its time while the server drains and ends is still told NOT_SERVING before the end."""
    health = HealthService([])
    async with aclosing(watch(health)) as answers:
        first = await anext(answers)
        health.drain()
        health.end()
        second = await anext(answers)
        with pytest.raises(ServerDraining):
            await anext(answers)
    assert (first.status, second.status) == (SERVING, NOT_SERVING)


async def test_watch_begun_after_the_end() -> None:
    """A watch that comes too late keeps nothing open."""
    health, heard = HealthService([]), list[int]()
    health.end()
    await follow(health, "", heard)
    assert heard == [NOT_SERVING, -1]


async def test_watch_can_be_cancelled() -> None:
    """A client that leaves takes its watch with it; others go on."""
    health, heard = HealthService([]), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, health, "", heard)
        with trio.CancelScope() as leaving:
            leaving.cancel()
            await follow(health, "", [])
        await trio.testing.wait_all_tasks_blocked()
        health.end()
    assert leaving.cancelled_caught
    assert heard == [SERVING, NOT_SERVING, -1]


async def test_long_requests_are_refused() -> None:
    """A watch cannot be used to keep megabytes in the server."""
    health = HealthService([])
    async with aclosing(watch(health, "x" * MAX_REQUEST)) as answers:
        with pytest.raises(InvalidRequest):
            await anext(answers)
    with pytest.raises(InvalidRequest):
        await health.Check(about("x" * MAX_REQUEST))
