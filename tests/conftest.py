"""What many tests share: one set of certificates, a real server, and skips that say why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from jobmaster.certs import authority
from tests.harness import Server, serving


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Give the skip of an asynchronous test its reason back: pytest-trio unwraps the group and drops the text."""
    try:
        return (yield)
    except pytest.skip.Exception as skip:
        group = skip.__context__
        if skip.msg or not isinstance(group, BaseExceptionGroup):
            raise
        reason = group
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        raise pytest.skip.Exception(str(reason)) from None


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate folder as `jobmaster.certs init` makes it."""
    folder = tmp_path_factory.mktemp("certificates")
    authority.initialise(folder)
    return folder


@pytest.fixture
async def server(tmp_path: Path, certificates: Path) -> AsyncIterator[Server]:
    """A server in this process, with no options but those that keep it to the test's folder."""
    async with serving(tmp_path, certificates) as running:
        yield running
