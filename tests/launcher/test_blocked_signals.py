"""A launcher that is started with signals blocked."""

from __future__ import annotations

import signal

import pytest

from jobmaster.launcher.child import HANDLED_SIGNALS
from tests.launcher.test_program import DEADLINE, SAY_SIGNALS, run_python, serving


def block_signals() -> None:
    """In the process that becomes the launcher."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)


def test_the_end_of_the_server_is_seen() -> None:
    """The launcher ends with its server, though whoever started it had blocked SIGCHLD."""
    assert run_python("import sys; sys.exit(7)", preexec_fn=block_signals).returncode == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_server(number: signal.Signals) -> None:
    """What tells the server to end does so, though it was blocked."""
    with serving(SAY_SIGNALS, preexec_fn=block_signals) as launcher:
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.send_signal(number)
        assert launcher.stdout.readline() == f"{number.name}\n"
        launcher.stdin.write("0\n")
        launcher.stdin.flush()
        assert launcher.wait(DEADLINE) == 0
