"""What many tests share: one set of certificates, a real server, and skips that say why."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Final

import pytest

from jobmaster.certs import authority
from tests.harness import Server, serving

LONG: Final = {"test_bench.py", "test_mutants.py", "test_output_at_scale.py", "test_readme.py", "test_scanners.py"}
"""With a test that takes five seconds or more, and fifteen at most."""


def pytest_configure() -> None:
    """Hold no example of a property against a clock, as in CI: a busy machine takes 200 ms from any of them.

    A shell's background processes ignore SIGINT, those of nohup(1) SIGHUP, and so would all that tests start and signal.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if "JOBMASTER_GUEST" in os.environ:  # no properties are tried there, and imports take long
        return
    from hypothesis import HealthCheck, settings

    settings.register_profile("at any pace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("at any pace")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take long, so that at the end no process waits for one of them."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish() -> None:
    """Keep the cycle collector from looking again and again at all modules and tests, which are there to stay."""
    gc.freeze()


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
