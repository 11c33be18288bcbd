"""The client program: `python -m tests.bench.client LOAD...` does each load and prints its outcome, a line of JSON each."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, assert_never

from tests.bench.load import Client, Load

if TYPE_CHECKING:
    from tests.bench.load import Outcome


def main() -> None:
    """Does the loads of the command line, one after another."""
    for argument in sys.argv[1:]:
        print(_run(Load.from_json(argument)).to_json())


def _run(load: Load) -> Outcome:
    # Only the client that is measured is imported: the other's threads and memory are not its load.
    match load.client:
        case Client.JOBMASTER:
            from tests.bench import jobmaster_client

            return jobmaster_client.run(load)
        case Client.GRPCIO:
            from tests.bench import grpcio_client

            return grpcio_client.run(load)
        case unreachable:
            assert_never(unreachable)


if __name__ == "__main__":
    main()
