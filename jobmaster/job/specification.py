"""What a caller asks to run, and what a record keeps of it. Values that exist are valid as far as no host is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import Final

from jobmaster.errors import InvalidRequest
from jobmaster.job.environment import Environment, check_folder, checked_environment, size_of
from jobmaster.job.labels import Labels, check_name, checked_labels
from jobmaster.job.limits import NO_LIMITS, LimitRequest
from jobmaster.job.run_time import RunTime
from jobmaster.job.secret import Secret, check_secrets, masked_words
from jobmaster.job.stop_terms import StopTerms
from jobmaster.job.terminal import Terminal

MAX_ARGUMENTS: Final = 65_536
"""Arguments of one command; the kernel's own bound is on their bytes and pointers together (execve(2))."""
MAX_ARGUMENT_BYTES: Final = 2 * 1024 * 1024
"""Bytes of all arguments and variables with their NULs: a quarter of the default stack limit of 8 MiB (execve(2), ARG_MAX)."""
MAX_COMMAND_BYTES: Final = 4095
"""PATH_MAX of Linux, without its NUL."""
SMALLEST_OUTPUT: Final = 256 * 1024
"""Bytes of output that are kept, at least, where only a part is kept."""
KEPT_BYTES: Final = 16 * 1024
"""Bytes of the arguments, as they are written in JSON, that a record keeps, so that 10,000 records are bounded whatever was run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpecification:
    """A command and its arguments, as the caller wrote them; no shell is involved.

    Attributes:
        stdin: whether it has an input that clients can write; else that is /dev/null.
        separate_streams: whether its stdout and stderr are told apart; else they share one pipe.
        output_max: bytes of output that are kept; 0: as many as the server keeps of any job.
        ends_when_full: the job is ended when there are more; else the middle of the output is dropped.
        terminal: what is all three of its standard streams; None where they are not one.
        run_time: how long it may run; None: for ever.
        stop: how it is stopped; None: as the server stops any job.
        name, labels: what its caller calls it; empty: nothing.
        environment: variables that it has beside those that the server gives it, or in their place.
        working_folder: where it begins, an absolute path that its process enters as its user; empty: the root.
        limits: what it may use of the host.
        secrets: what of the words nobody is to read, in order.
        masked_argv: the argument vector without its secrets, for all that is kept or said of it.

    Raises:
        InvalidRequest: it cannot be run on any host; names the field.
    """

    command: str
    args: tuple[str, ...] = ()
    stdin: bool = False
    separate_streams: bool = False
    output_max: int = 0
    ends_when_full: bool = False
    terminal: Terminal | None = None
    run_time: RunTime | None = None
    stop: StopTerms | None = None
    name: str = ""
    labels: Labels = ()
    environment: Environment = field(default=(), repr=False)
    working_folder: str = ""
    limits: LimitRequest = NO_LIMITS
    secrets: tuple[Secret, ...] = ()
    masked_argv: tuple[str, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.terminal is not None and self.separate_streams:
            raise InvalidRequest(
                "a job with a terminal has stdout and stderr in one: ask for one or the other", field="separate_streams"
            )
        if 0 < self.output_max < SMALLEST_OUTPUT:
            raise InvalidRequest(
                f"output_max is {SMALLEST_OUTPUT} bytes at least, or 0 for what the server keeps", field="output_max"
            )
        if not self.command.strip():
            raise InvalidRequest("command is empty: name the program to run", field="command")
        if len(_encode(self.command)) > MAX_COMMAND_BYTES:
            raise InvalidRequest("command is longer than a path can be", field="command")
        if "\0" in self.command:
            raise InvalidRequest("command contains a NUL byte, which no Linux command can", field="command")
        if len(self.args) > MAX_ARGUMENTS:
            raise too_many_arguments()
        object.__setattr__(self, "environment", checked_environment(self.environment))
        check_folder(self.working_folder)
        if sum(map(len, self.args)) + len(self.args) + size_of(self.environment) > MAX_ARGUMENT_BYTES:
            raise too_long_arguments()
        for position, argument in enumerate(self.args):
            if "\0" in argument:
                raise InvalidRequest(
                    f"argument {position + 1} contains a NUL byte, which no Linux argument can",
                    field=f"args[{position}]",
                )
        check_name(self.name)
        object.__setattr__(self, "labels", checked_labels(self.labels))
        check_secrets(self.argv, self.secrets)
        object.__setattr__(self, "masked_argv", masked_words(self.argv, self.secrets))

    @property
    def argv(self) -> tuple[str, ...]:
        """The argument vector of the process."""
        return (self.command, *self.args)

    def __repr__(self) -> str:
        """Without the arguments: they may hold secrets that nobody named, and a repr ends in logs."""
        return f"JobSpecification(command={self.masked_argv[0]!r}, {len(self.args)} args)"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command as a record keeps it: all of it up to `KEPT_BYTES`, in one piece of memory.

    Attributes:
        omitted: how many arguments at the end are not kept.
    """

    _packed: bytes
    omitted: int

    @classmethod
    def of(cls, specification: JobSpecification) -> CommandLine:
        """What is kept of a specification, without its secrets; the command itself always is."""
        command, *args = specification.masked_argv
        kept = [_encode(command)]
        space = KEPT_BYTES
        for argument in args:
            encoded = _encode(argument)
            space -= len(encode_basestring_ascii(argument)) - 1
            if space < 0:
                break
            kept.append(encoded)
        return cls(b"\0".join(kept), omitted=len(specification.args) - (len(kept) - 1))

    @property
    def command(self) -> str:
        """The program, as the caller named it."""
        return self._words()[0]

    @property
    def args(self) -> Sequence[str]:
        """The arguments that are kept."""
        return self._words()[1:]

    def _words(self) -> list[str]:
        return self._packed.decode("utf-8", "surrogateescape").split("\0")

    def __repr__(self) -> str:
        """Without the arguments: they may hold secrets."""
        return f"CommandLine({self.command!r})"


def too_many_arguments() -> InvalidRequest:
    """The error for more than `MAX_ARGUMENTS`."""
    return InvalidRequest(f"more than {MAX_ARGUMENTS} arguments: pass them in a file", field="args")


def too_long_arguments() -> InvalidRequest:
    """The error for more than `MAX_ARGUMENT_BYTES`."""
    return InvalidRequest("more than 2 MiB of arguments and environment: pass them in a file", field="args")


def _encode(word: str) -> bytes:
    return word.encode("utf-8", "surrogateescape")
