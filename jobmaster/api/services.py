"""Every service of the server as one value, and the two steps by which they end."""

from __future__ import annotations

from collections.abc import Mapping

from jobmaster.api.followers import MOST_FOLLOWERS, Followers
from jobmaster.api.health import HEALTH, HealthService
from jobmaster.api.jobs import JobService
from jobmaster.api.reflection import REFLECTION, REFLECTION_ALPHA, ReflectionService
from jobmaster.api.server_info import ServerFacts
from jobmaster.grpc.purerpc_adapter import Service
from jobmaster.run.registry import Registry


class Api:
    """JobService and, beside it, the standard services that tools expect: health and reflection."""

    def __init__(
        self,
        registry: Registry,
        *,
        facts: ServerFacts = ServerFacts(),  # noqa: B008  # a value
        most_followers: int = MOST_FOLLOWERS,
    ) -> None:
        self._jobs = JobService(registry, Followers(most_followers), facts)
        jobs = self._jobs.service
        names = (jobs.name, HEALTH, REFLECTION, REFLECTION_ALPHA)
        self._health = HealthService(names)
        self._reflection = ReflectionService(names)
        services = (jobs, self._health.service, self._reflection.service, self._reflection.alpha_service)
        self._services = {service.name: service for service in services}

    @property
    def services(self) -> Mapping[str, Service]:
        """Each service by its full name."""
        return self._services

    def take_up(self, facts: ServerFacts) -> None:
        """Has the server tell these of itself from now on."""
        self._jobs.take_up(facts)

    def drain(self) -> None:
        """Health says NOT_SERVING from now on: clients that can go elsewhere do."""
        self._health.drain()

    def end_streams(self) -> None:
        """Ends the streams that have no end of their own, which would keep their connections open."""
        self._jobs.end_streams()
        self._health.end()
        self._reflection.end()
