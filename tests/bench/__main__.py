"""`python -m tests.bench`: measures, and prints a table."""

from __future__ import annotations

import argparse
import json
import os
import pstats
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from tests.bench import servers
from tests.bench.measurements import MEASUREMENTS, Contest, conditions, profile
from tests.bench.size import FULL, QUICK, Size
from tests.bench.table import Row, as_document, as_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

FOLDER: Final = Path("/var/tmp")
"""On a disk, as servers keep it; what is streamed comes from the page cache. No tmpfs: on those the kernel (6.18) does
not know RWF_NOWAIT, and jobmaster reads every chunk by a thread."""
PROFILE_LINES: Final = 25


def main() -> None:
    """The program. Exits 1 with the reason where it cannot measure."""
    options = _parser().parse_args()
    size = QUICK if options.quick else FULL
    for number in servers.SIGNALS:
        signal.signal(number, _interrupt)
    try:
        if options.profile is not None:
            _profile(size, options.folder, options.profile)
        else:
            _measure(size, options.folder, options.only, options.json)
    except servers.Unable as error:
        sys.exit(f"bench: {error}")


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Ends the benchmark once: further signals do not disturb the clearing up."""
    for each in servers.SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    os.write(sys.stderr.fileno(), b"bench: interrupted; clearing up\n")  # print may be what was interrupted
    sys.exit(128 + number)


def _measure(size: Size, folder: Path, names: Sequence[str], document: Path | None) -> None:
    with servers.place(folder, size.needed_bytes(names)) as own, ExitStack() as running:
        contest = Contest(own, size, running)
        rows: list[Row] = [row for name in MEASUREMENTS if name in names for row in MEASUREMENTS[name](contest)]
    print(as_text(rows))
    if document is not None:
        document.write_text(json.dumps(as_document(rows, conditions(size)), indent=2) + "\n")


def _profile(size: Size, folder: Path, what: str) -> None:
    with servers.place(folder, size.needed_bytes([what])) as own:
        file = own.folder / "profile"
        with servers.jobmaster(own, profile=file) as server:
            profile(own, size, server, what)
        pstats.Stats(str(file)).strip_dirs().sort_stats("tottime").print_stats(PROFILE_LINES)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures jobmaster beside a server and a client of grpcio. Needs root and a cgroup v2 mount.",
    )
    parser.add_argument("--quick", action="store_true", help="little of everything: shows that it works, not how fast")
    parser.add_argument(
        "--only",
        metavar="NAME",
        nargs="+",
        choices=list(MEASUREMENTS),
        default=list(MEASUREMENTS),
        help=f"measure these alone: {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all rounds into FILE as well")
    parser.add_argument(
        "--profile",
        choices=["input", "start", "stream", "unary"],
        help="instead of measuring, show where the server spends its time",
    )
    parser.add_argument(
        "--folder",
        metavar="DIR",
        type=Path,
        default=FOLDER,
        help=f"where the output is kept while it is measured (default {FOLDER})",
    )
    return parser


if __name__ == "__main__":
    main()
