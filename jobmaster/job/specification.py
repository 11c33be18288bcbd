"""What a caller asks to run. A specification that exists is valid as far as it can be told without a host."""

from __future__ import annotations

from dataclasses import dataclass

from jobmaster.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpecification:
    """A command and its arguments, as the caller wrote them; no shell is involved."""

    command: str
    args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.command.strip():
            raise InvalidRequest("command is empty: name the program to run", field="command")
        if "\0" in self.command:
            raise InvalidRequest("command contains a NUL byte, which no Linux command can", field="command")
        for position, argument in enumerate(self.args):
            if "\0" in argument:
                raise InvalidRequest(
                    f"argument {position + 1} contains a NUL byte, which no Linux argument can",
                    field=f"args[{position}]",
                )

    @property
    def argv(self) -> tuple[str, ...]:
        """The argument vector of the process."""
        return (self.command, *self.args)

    def __repr__(self) -> str:
        """Without the arguments: they may hold secrets, and a repr ends in logs."""
        return f"JobSpecification(command={self.command!r}, {len(self.args)} args)"
