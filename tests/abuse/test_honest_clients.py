"""What an ordinary client does often and fast is no flood."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import trio

from tests.abuse.program import HANG_GUARD, attacked
from tests.harness import REPOSITORY

pytestmark = pytest.mark.abuse


@pytest.mark.parametrize("pattern", ["errors", "peeks", "given_up"])
async def test_an_honest_client_meets_no_bound(certificates: Path, pattern: str) -> None:
    """Error answers, streams that are left and deadlines that pass, of grpcio: no call fails, and no GOAWAY comes."""
    async with attacked(certificates) as program:
        command = [sys.executable, "-m", "tests.abuse.honest_grpcio", str(program.port), str(certificates), pattern]
        with trio.fail_after(HANG_GUARD):
            done = await trio.run_process(
                command,
                capture_stdout=True,
                capture_stderr=True,
                cwd=REPOSITORY,
                env=os.environ | {"GRPC_VERBOSITY": "INFO"},
            )
    assert json.loads(done.stdout) == []
    assert b"goaway" not in done.stderr
