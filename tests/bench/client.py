"""The client program: `python -m tests.bench.client CLIENT PLACE` does the loads of each line of its stdin.

Each line, a JSON list of loads, is done by a process of its own, forked from this one, which has imported all that the
client needs and has done nothing else: that is paid once, and no load finds what another has left. It prints the outcomes,
a line of JSON each, and this program `ended STATUS` after them. PLACE is for whoever looks for processes left behind.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, assert_never

from tests.bench.load import Client, Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.load import Outcome


def main() -> None:
    """Forks for each line until there are no more, or until SIGTERM, which ends the process that was forked as well."""
    run = _runner(Client(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for line in sys.stdin:
        print(f"ended {_fork(run, line)}", flush=True)


def _runner(client: Client) -> Callable[[Load], Outcome]:
    # Only the client that is measured is imported: the other's threads and memory are not its load.
    match client:
        case Client.JOBMASTER:
            from tests.bench import jobmaster_client

            return jobmaster_client.run
        case Client.GRPCIO:
            from tests.bench import grpcio_client

            return grpcio_client.run
        case unreachable:
            assert_never(unreachable)


def _fork(run: Callable[[Load], Outcome], line: str) -> int:
    """Does the loads of a line in a process of their own: its exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if pid == 0:
        _do(run, line)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except SystemExit:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _do(run: Callable[[Load], Outcome], line: str) -> None:
    """Does the loads, one after another, and ends the process."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for load in json.loads(line):
            print(run(Load.from_json(load)).to_json(), flush=True)
        status = 0
    except Exception:  # noqa: BLE001  # told, whatever it is: nothing of the parent's may be gone on with
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
