"""Commands whose every byte and whose end are known beforehand, and that leave a mark where they ran. Pure.

Each is a script of sh, whose $0 is the name of the request, $1 the file of marks, and $2 and $3 its own numbers.
"""

from __future__ import annotations

import enum
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MARK: Final = 'echo "$0 $JOBMASTER_JOB_ID" >> "$1"; '
_LINES: Final = 40
"""Lines that an endless writer writes at a time: one write, by the shell itself, which alone handles SIGTERM."""
_NUMBERS: Final = " ".join(f"$((i+{number}))" for number in range(_LINES))
_ENDLESS: Final = (
    f'exec 2>/dev/null; i=0; while :; do printf "$0 %08d\\n" {_NUMBERS}; i=$((i+{_LINES})); sleep 0.05 & wait $!; done'
)
BYE: Final = b"bye\n"
"""The last line of a job that handles SIGTERM."""
BYE_CODE: Final = 3


class Kind(enum.Enum):
    """What a command does."""

    EXITS = enum.auto()
    """At once, with a code."""
    SIGNALLED = enum.auto()
    """Dies by a signal of its own at once."""
    COUNTS = enum.auto()
    """Writes for some seconds, then exits with a code."""
    FLOODS = enum.auto()
    """Writes megabytes as fast as it can, then exits with a code."""
    LEAVES_OTHERS = enum.auto()
    """Exits with a code while a process of it lives on, with the pipe."""
    SLEEPS = enum.auto()
    """Until it is stopped, of which it dies."""
    HANDLES_STOP = enum.auto()
    """Writes until it is stopped, and exits with BYE_CODE then."""
    IGNORES_STOP = enum.auto()
    """Writes until it is killed."""
    NOT_FOUND = enum.auto()
    """No such command."""


SCRIPTS: Final = {
    Kind.EXITS: 'echo "$0"; exit $2',
    Kind.SIGNALLED: 'echo "$0"; kill -$2 $$',
    Kind.COUNTS: 'i=0; while [ $i -lt $3 ]; do seq -f "$0 %08.0f" $((i*20)) $((i*20+19)); i=$((i+1)); sleep 0.05; done; '
    "exit $2",
    Kind.FLOODS: 'seq -f "$0 %08.0f" 0 $(($3*20-1)); exit $2',
    Kind.LEAVES_OTHERS: 'sleep 1000 & echo "$0"; exit $2',
    Kind.SLEEPS: "exec sleep 1000",
    Kind.HANDLES_STOP: f"trap 'echo bye; exit {BYE_CODE}' TERM; {_ENDLESS}",
    Kind.IGNORES_STOP: f"trap '' TERM; {_ENDLESS}",
}
TO_BE_STOPPED: Final = frozenset({Kind.SLEEPS, Kind.HANDLES_STOP, Kind.IGNORES_STOP})
_DEADLY: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
_WEIGHTS: Final = {
    Kind.EXITS: 6,
    Kind.SIGNALLED: 3,
    Kind.COUNTS: 6,
    Kind.FLOODS: 2,
    Kind.LEAVES_OTHERS: 2,
    Kind.SLEEPS: 2,
    Kind.HANDLES_STOP: 4,
    Kind.IGNORES_STOP: 3,
    Kind.NOT_FOUND: 1,
}


@dataclass(frozen=True, slots=True)
class Command:
    """What is to run.

    Attributes:
        name: of the request; every line of output begins with it.
        number: its exit code, or its signal.
        rounds: of twenty lines each.
    """

    name: str
    kind: Kind
    number: int = 0
    rounds: int = 0

    @staticmethod
    def any(name: str, chance: random.Random) -> Command:
        """One of every kind in turn, by chance."""
        kind = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        match kind:
            case Kind.SIGNALLED:
                return Command(name, kind, chance.choice(_DEADLY))
            case Kind.COUNTS:
                return Command(name, kind, chance.randrange(256), chance.randrange(5, 60))
            case Kind.FLOODS:
                return Command(name, kind, chance.randrange(256), chance.randrange(500, 8_000))
            case _:
                return Command(name, kind, chance.randrange(256))

    def arguments(self, marks: str) -> tuple[str, ...]:
        """The command line."""
        if self.kind is Kind.NOT_FOUND:
            return (f"no-such-command-{self.name}",)
        return ("sh", "-c", _MARK + SCRIPTS[self.kind], self.name, marks, str(self.number), str(self.rounds))

    def is_whole(self, output: bytes) -> bool:
        """Whether this is all that the command writes, where it comes to its end."""
        match self.kind:
            case Kind.SLEEPS:
                return not output
            case Kind.HANDLES_STOP:
                return output.endswith(BYE) and self._begins_with(output[: -len(BYE)])
            case Kind.IGNORES_STOP:
                return self._begins_with(output)
            case _:
                return output == b"".join(self._lines())

    def is_beginning(self, output: bytes) -> bool:
        """Whether this is what the command writes first, stopped or not."""
        if self._begins_with(output):
            return True
        lines = output.removesuffix(BYE)
        return self.kind is Kind.HANDLES_STOP and len(lines) < len(output) and self._begins_with(lines)

    def _begins_with(self, output: bytes) -> bool:
        at = 0
        for line in self._lines():
            part = output[at : at + len(line)]
            if not line.startswith(part):
                return False
            at += len(part)
            if at == len(output):
                return True
        return at == len(output)

    def _lines(self) -> Iterator[bytes]:
        name = self.name.encode()
        match self.kind:
            case Kind.EXITS | Kind.SIGNALLED | Kind.LEAVES_OTHERS:
                yield name + b"\n"
            case Kind.COUNTS | Kind.FLOODS:
                yield from (b"%s %08d\n" % (name, number) for number in range(20 * self.rounds))
            case Kind.HANDLES_STOP | Kind.IGNORES_STOP:
                number = 0
                while True:
                    yield b"%s %08d\n" % (name, number)
                    number += 1
            case Kind.SLEEPS | Kind.NOT_FOUND:
                return
