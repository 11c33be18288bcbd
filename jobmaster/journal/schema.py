"""The tables of the database, by version, and the way from each version to the next.

`event` is what happened; `job` is what follows from it, changed in the same transaction. A job's key is the sequence
number of its first event. Sequence numbers are given by the program, from one counter for `event` and `removal`:
AUTOINCREMENT keeps the greatest one that an event ever had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import apsw

APPLICATION_ID: Final = 0x4A4F424D
"""In the header of the file, by which file(1) and this program know what it is: "JOBM"."""

_VERSION_1: Final = """
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL,
    at INTEGER NOT NULL,
    type TEXT NOT NULL,
    doc TEXT NOT NULL
) STRICT;
CREATE INDEX event_job ON event (job);

CREATE TABLE job (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    cause TEXT,
    started INTEGER NOT NULL,
    ended INTEGER,
    doc TEXT NOT NULL
) STRICT;
CREATE INDEX job_owner ON job (owner);
CREATE INDEX job_owner_state ON job (owner, state);
CREATE INDEX job_state ON job (state);
CREATE INDEX job_open ON job (owner) WHERE ended IS NULL;
CREATE INDEX job_owner_ended ON job (owner, ended) WHERE ended IS NOT NULL;

CREATE TABLE request (
    owner TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    job_id TEXT NOT NULL,
    error TEXT,
    at INTEGER NOT NULL,
    removed INTEGER, -- when its job was
    UNIQUE (owner, request_id)
) STRICT;
CREATE INDEX request_job ON request (job_id);
CREATE INDEX request_removed ON request (removed) WHERE removed IS NOT NULL;

CREATE TABLE removal (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    owner TEXT NOT NULL
) STRICT;

CREATE TABLE aside (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    doc TEXT NOT NULL
) STRICT;

CREATE TABLE number (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
INSERT INTO number VALUES ('horizon', 0), ('probe', 0);
"""

_VERSION_2: Final = """
DROP INDEX job_owner;
DROP INDEX job_owner_state;
DROP INDEX job_state;
-- All that a list of jobs may be asked for, in the order of the list; `cause` is NULL until the job has ended.
CREATE INDEX job_in_order ON job (key, cause, started);
CREATE INDEX job_of_owner_in_order ON job (owner, key, cause, started);
"""

_VERSION_3: Final = """
-- The sequence number of a job's end: clocks are set back, and a job that has just ended must not be the oldest one.
ALTER TABLE job ADD COLUMN ended_seq INTEGER;
UPDATE job SET ended_seq = (SELECT max(seq) FROM event WHERE event.job = job.key) WHERE ended IS NOT NULL;
CREATE INDEX job_owner_ended_seq ON job (owner, ended_seq) WHERE ended IS NOT NULL; -- the order in which they are pruned
-- What has happened up to this number may not have been told of this client's removed jobs.
CREATE TABLE horizon (
    owner TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT;
CREATE INDEX removal_owner ON removal (owner, seq);
CREATE INDEX request_owner_removed ON request (owner, removed) WHERE removed IS NOT NULL;
"""

_VERSION_4: Final = """
-- Jobs that are forgotten and whose output may still be there: who finds these files knows that they are nobody's.
CREATE TABLE discarded (
    job_id TEXT NOT NULL PRIMARY KEY
) STRICT;
-- Jobs that are removed and have events that the audit may not have yet.
CREATE TABLE uncopied (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    owner TEXT NOT NULL
) STRICT;
"""

Migration = Callable[[apsw.Connection], object]


def _create(connection: apsw.Connection) -> None:
    connection.execute(_VERSION_1)
    connection.pragma("application_id", APPLICATION_ID)


def _index_lists(connection: apsw.Connection) -> None:
    connection.execute(_VERSION_2)


def _order_ends(connection: apsw.Connection) -> None:
    connection.execute(_VERSION_3)


def _remember_removed(connection: apsw.Connection) -> None:
    connection.execute(_VERSION_4)


MIGRATIONS: Final[Mapping[int, Migration]] = {0: _create, 1: _index_lists, 2: _order_ends, 3: _remember_removed}
"""From each version to the next; 0 is a file without content."""


class NotAJournal(Exception):
    """A database of another program."""


class TooNew(Exception):
    """A database of a later version of this program."""


def version_of(connection: apsw.Connection, migrations: Mapping[int, Migration] = MIGRATIONS) -> int:
    """The version of a database; only reads.

    Raises:
        NotAJournal, TooNew: this program cannot use it.
    """
    version = int(connection.pragma("user_version"))
    is_new = version == 0 and not connection.pragma("schema_version")
    if not is_new and connection.pragma("application_id") != APPLICATION_ID:
        raise NotAJournal
    if version > len(migrations):
        raise TooNew(f"version {version}; this program knows {len(migrations)}")
    return version


def migrate(connection: apsw.Connection, version: int, migrations: Mapping[int, Migration] = MIGRATIONS) -> None:
    """Brings a database from this version to the latest, in one transaction.

    Raises:
        apsw.Error: it is left as it is.
    """
    latest = len(migrations)
    if version == latest:
        return
    with connection:  # commits, or rolls back where an error passes
        for step in range(version, latest):
            migrations[step](connection)
        connection.pragma("user_version", latest)
