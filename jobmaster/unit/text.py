"""The unit's text. Pure, but for the two files that it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobmaster.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "jobmaster.service"
LEAST_STOP_SECONDS: Final = 90
AFTER_GRACE_SECONDS: Final = 60
"""What a server needs at its end beside the jobs' grace period: deaths, followers' last bytes, the journal."""
_PRIVILEGED_PORTS: Final = 1024
_FOLDER: Final = Path(__file__).parent
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@+=:,./-")
_CONFIGURATION: Final = """\
# /etc/jobmaster, in which a first start makes the certificates: a service under ProtectSystem= cannot make the folder itself.
ConfigurationDirectory=jobmaster

"""
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "%": "%%", "$": "$$"}
_CONTROL: Final = 0x20


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What the unit depends on.

    Attributes:
        command: the server's command line, the interpreter first.
        grace_seconds: between SIGTERM and SIGKILL of a job.
        port: on which it listens.
        makes_certificates: it has the default folder of certificates, which its first start may have to make.
        jobs_are_root: jobs are to have all of root's power, so that nothing is taken from them.
    """

    command: tuple[str, ...]
    grace_seconds: float
    port: int
    jobs_are_root: bool
    makes_certificates: bool = True

    def __post_init__(self) -> None:
        program = self.command[0]
        if not program.startswith("/") or not set(program) <= _PLAIN:
            raise ConfigurationError(
                f"{program}: a unit's program has a path of ASCII letters, digits and _@+=:,./-; install jobmaster elsewhere"
            )


def unit_text(unit: Unit) -> str:
    """The unit's file."""
    stop_seconds = max(LEAST_STOP_SECONDS, math.ceil(unit.grace_seconds) + AFTER_GRACE_SECONDS)
    hardening = "" if unit.jobs_are_root else _hardening(unit.port)
    parts = {
        "@command@": command_line(unit.command),
        "@stop_seconds@": str(stop_seconds),
        "@configuration@": _CONFIGURATION if unit.makes_certificates else "",
        "@hardening@\n": hardening,
    }
    return _filled("jobmaster.service", parts)


def _hardening(port: int) -> str:
    is_privileged = 0 < port < _PRIVILEGED_PORTS
    parts = {
        "@capabilities@": " CAP_NET_BIND_SERVICE" if is_privileged else "",
        "@capability_reason@": f" NET_BIND_SERVICE: port {port}." if is_privileged else "",
    }
    return _filled("hardening.conf", parts)


def _filled(file: str, parts: dict[str, str]) -> str:
    text = (_FOLDER / file).read_text(encoding="utf-8")
    for place, part in parts.items():
        text = text.replace(place, part)
    return text


def command_line(words: Sequence[str]) -> str:
    """A command as ExecStart= takes it: systemd.syntax(7) for quotes, systemd.service(5) for `$`, systemd.unit(5) for `%`.

    Raises:
        ConfigurationError: a word has what no unit can say.
    """
    return " ".join(_word(word) for word in words)


def _word(word: str) -> str:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{word!r} is not UTF-8, which a unit is: say it otherwise") from None
    if "\0" in word:
        raise ConfigurationError(f"{word!r} has a NUL, which no command line takes")
    if word and set(word) <= _PLAIN:
        return word
    return '"' + "".join(map(_character, word)) + '"'


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\x{ord(character):02x}" if ord(character) < _CONTROL or character == "\x7f" else character
