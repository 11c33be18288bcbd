"""What of a Start its request id stands for."""

from __future__ import annotations

from hashlib import sha256

import pytest

from jobmaster.errors import (
    CommandNotFound,
    CommandNotRunnable,
    CommandNotRunnableNow,
    HostError,
    InvalidRequest,
    JobmasterError,
    ServerBusy,
)
from jobmaster.job.request import RequestError, RequestKey, request_error_of
from jobmaster.job.secret import Secret
from jobmaster.job.specification import JobSpecification
from jobmaster.job.terminal import Terminal, Window


def digest(specification: JobSpecification) -> bytes:
    """Of a Start with this specification."""
    return RequestKey.of("id", specification).digest


def test_another_option_is_another_request() -> None:
    """A request id that comes with other streams is refused, as with another command."""
    digests = {
        digest(JobSpecification(command="cat", args=args, stdin=stdin, separate_streams=separate))
        for args in ((), ("stdin",), ("stdin", ""))
        for stdin in (False, True)
        for separate in (False, True)
    }
    assert len(digests) == 12


def test_a_terminal_of_another_size_is_the_same_request() -> None:
    """A request id asks for a terminal or not; who asks again may sit before another one."""
    large = Terminal(window=Window(rows=50, columns=200), term="vt100")
    digests = {digest(JobSpecification(command="vi", terminal=terminal)) for terminal in (None, Terminal(), large)}
    assert len(digests) == 2


def test_secrets_are_in_no_digest() -> None:
    """Another secret in the same place is the same request; another place, or a text like the mask, is another one."""
    first, second = [
        JobSpecification(command="x", args=(f"u:{each}",), secrets=(Secret(1, 2, 6),)) for each in ("abcd", "efgh")
    ]
    longer = JobSpecification(command="x", args=("u:abcdef",), secrets=(Secret(1, 2, 8),))
    assert digest(first) == digest(second) == digest(longer)
    others = [
        JobSpecification(command="x", args=("u:abcd",)),
        JobSpecification(command="x", args=("u:***",)),
        JobSpecification(command="x", args=("u:abcd",), secrets=(Secret(1, 1, 6),)),
        JobSpecification(command="x", args=("u:abcd",), secrets=(Secret(1, 2, 4), Secret(1, 4, 6))),
    ]
    assert len({digest(first), *map(digest, others)}) == 5


def test_requests_of_older_servers() -> None:
    """A Start without options has the digest that it always had: a server that was upgraded knows it again."""
    assert digest(JobSpecification(command="ls", args=("-l", "é"))) == sha256(b"ls\0-l\0\xc3\xa9\0").digest()


@pytest.mark.parametrize("request_id", ["x", "a b", "~" * 128, "!" + " " * 126 + "!"])
def test_ids(request_id: str) -> None:
    """An id has up to 128 printable characters, spaces within included."""
    assert RequestKey(id=request_id, digest=b"").id == request_id


@pytest.mark.parametrize("request_id", ["", " ", " a", "a ", "a\n", "a\0b", "é", "x" * 129])
def test_ids_that_are_none(request_id: str) -> None:
    """What could not be told from another id when it is read is refused, and the field is named."""
    with pytest.raises(InvalidRequest, match="1 to 128 printable ASCII characters") as refused:
        RequestKey.of(request_id, JobSpecification(command="ls"))
    assert refused.value.field == "request_id"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CommandNotFound("not there"), "command_not_found"),
        (CommandNotRunnable("no program"), "command_not_runnable"),
        (InvalidRequest("too long", field="args"), "invalid_request"),
        (CommandNotRunnableNow("the disk is slow"), None),
        (ServerBusy("later"), None),
        (HostError("broken"), None),
    ],
)
def test_which_errors_are_repeated(error: JobmasterError, kind: str | None) -> None:
    """Those that would not pass, by names that are in the journals of older servers; they come back as they were."""
    stored = request_error_of(error)
    assert stored == (None if kind is None else RequestError(kind=kind, text=str(error)))
    if stored is not None:
        assert (type(stored.error()), str(stored.error())) == (type(error), str(error))
