"""`audit`: what the audit's files on this host say, as a table on a terminal and as its own lines elsewhere."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from jobmaster.audit.names import AUDIT, FOLDER, HANDSHAKES
from jobmaster.audit.reading import TrailReader, Wanted, time_of
from jobmaster.cli.actions import Audit
from jobmaster.cli.descriptors import STDOUT, write_notice, write_text
from jobmaster.cli.presentation import visible
from jobmaster.errors import ConfigurationError
from jobmaster.places import default_output_folder

FOLLOW_SECONDS: Final = 0.5
"""Between two looks for what was added."""
GATHERED: Final = 64 * 1024
"""Characters that are gathered before they are written."""
HEADER: Final = f"{'SEQ':>8}  {'TIME':<23}  {'CLIENT':<10}  {'WHAT':<17}  {'JOB':<27}  {'OUTCOME':<18}  MORE"


def show_audit(asked: Audit) -> None:
    """Writes a line for each entry that is asked for.

    Raises:
        ConfigurationError: there is no audit, or it cannot be read.
        OutputFailed: standard output did not take it.
    """
    folder = asked.folder or default_output_folder(os.environ, is_root=os.geteuid() == 0) / FOLDER
    if not folder.is_dir():
        raise ConfigurationError(
            f"there is no audit in {folder}; name the server's folder with --audit-folder, and run as its user"
        )
    reader = TrailReader(folder, HANDSHAKES if asked.handshakes else AUDIT, _wanted(asked))
    as_json = not os.isatty(STDOUT) if asked.as_json is None else asked.as_json
    if not as_json:
        write_text(f"{HEADER}\n")
    _show_new(reader, as_json=as_json)
    while asked.follow:
        time.sleep(FOLLOW_SECONDS)  # a file that is appended to tells nobody
        _show_new(reader, as_json=as_json)
    if reader.unreadable:
        write_notice(f"jobmaster: {reader.unreadable} lines are damaged or of a later version, and left out\n")


def _show_new(reader: TrailReader, *, as_json: bool) -> None:
    width = shutil.get_terminal_size().columns if os.isatty(STDOUT) else 0
    text = ""
    for line, entry in reader.entries():
        text += f"{line.decode('ascii', 'replace') if as_json else entry_line(entry, width)}\n"
        if len(text) >= GATHERED:
            write_text(text)
            text = ""
    write_text(text)


def _wanted(asked: Audit) -> Wanted:
    return Wanted(
        client=asked.client or None, job=asked.job or None, since=_time(asked.since), until=_time(asked.until)
    )


def _time(moment: datetime | timedelta | None) -> datetime | None:
    return datetime.now(UTC) - moment if isinstance(moment, timedelta) else moment


def entry_line(entry: dict[str, Any], width: int) -> str:
    """An entry for people, in `width` columns; as wide as it is, where that is 0."""
    at = time_of(entry)
    moment = "?" if at is None else at.astimezone().replace(tzinfo=None).isoformat(" ", "milliseconds")
    what, outcome, more = _told(entry)
    line = (
        f"{entry['sequence']:>8}  {moment:<23}  {entry.get('client') or '-'!s:<10}  {what:<17}  {entry.get('job') or '-'!s:<27}  "
        f"{outcome:<18}  {more}"
    ).rstrip()
    line = visible(line)
    return line if not width or len(line) <= width else f"{line[: width - 1]}…"


def _told(entry: dict[str, Any]) -> tuple[str, str, str]:
    """What happened, how it came out, and what else there is to say."""
    kind = str(entry["kind"])
    why = str(entry.get("why") or "")
    match kind:
        case "begun":
            return _method(entry), "begun", _command(entry)
        case "call":
            return _method(entry), str(entry.get("outcome")), "; ".join(filter(None, [why, _command(entry)]))
        case "job":
            by = f"by {entry['by']}" if entry.get("by") else ""
            return str(entry.get("event")), "", ": ".join(filter(None, [by, why]))
        case "handshake":
            return "refused", "", f"{entry.get('peer')}: {why}"
        case "counted":
            found = entry.get("reasons")
            counts = found.items() if isinstance(found, dict) else ()
            reasons = ", ".join(f"{count} of {reason!r}" for reason, count in counts)
            return "refused", "", f"{entry.get('count')} more since {entry.get('since')}: {reasons}"
        case "gap":
            return "GAP", "", f"{entry.get('count')} entries are missing since {entry.get('since')}: {why}"
        case "opened":
            before = ", after one that was cut off" if entry.get("before") == "cut off" else ""
            return "server began", "", f"jobmaster {entry.get('server')}{before}"
        case "closed":
            return "server ended", "", ""
        case _:
            return kind, "", ""


def _method(entry: dict[str, Any]) -> str:
    return str(entry.get("method") or "?").rpartition("/")[2]


def _command(entry: dict[str, Any]) -> str:
    words = entry.get("command")
    if not words or not isinstance(words, list):
        return ""
    omitted = entry.get("command_omitted")
    return shlex.join(map(str, words)) + (f" … ({omitted} more)" if omitted else "")
