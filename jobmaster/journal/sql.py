"""Rows of a statement with the types that the schema promises: its tables are STRICT."""

from __future__ import annotations

from typing import Any

import apsw


def rows(connection: apsw.Connection, statement: str, *values: apsw.SQLiteValue) -> list[tuple[Any, ...]]:
    """All rows."""
    return connection.execute(statement, values).fetchall()


def row(connection: apsw.Connection, statement: str, *values: apsw.SQLiteValue) -> tuple[Any, ...] | None:
    """The first row, None where there is none."""
    return connection.execute(statement, values).fetchone()


def value(connection: apsw.Connection, statement: str, *values: apsw.SQLiteValue) -> Any:
    """The first column of the first row, None where there is none."""
    first = row(connection, statement, *values)
    return first[0] if first is not None else None
