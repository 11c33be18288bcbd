"""The calls of JobService where the registry changes under them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobmaster.api.jobs import JobService
from jobmaster.errors import JobNotFound, OutputUnreadable
from jobmaster.identity.policy import Identity, Role
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.log import StoredOutput
from jobmaster.run.registry import Registry


class ChangingRegistry:
    """One that knows a job whose file is gone, for the first so many questions."""

    def __init__(self, output: StoredOutput, questions: int) -> None:
        self._output = output
        self._answers: Iterable[bool] = iter([True] * questions)

    async def find(self, _caller: Identity, _job_id: str) -> Any:
        """As `Registry.find`."""
        if not next(iter(self._answers), False):
            raise JobNotFound("no such job")
        return SimpleNamespace(output=self._output)


async def follow(registry: ChangingRegistry) -> None:
    """Reads a job's output to its end."""
    request = pb.JobIDRequest(job_id_request=pb.JobID(job_id="job"))
    service = JobService(cast(Registry, registry))
    async for _ in service.StreamOutput(request, Identity(name="client1", role=Role.USER)):
        pass


@pytest.mark.parametrize(("questions", "answer"), [(1, JobNotFound), (2, OutputUnreadable)])
async def test_output_whose_file_is_gone(tmp_path: Path, questions: int, answer: type[Exception]) -> None:
    """A job forgotten between the question and the opening of its file is not found; a file that is lost is the host's."""
    output = StoredOutput(path=tmp_path / "job.log", size=5, lost=0)
    with pytest.raises(answer):
        await follow(ChangingRegistry(output, questions))
