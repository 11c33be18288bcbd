"""From errors to gRPC statuses."""

from __future__ import annotations

import re
from typing import Final

import pytest
from purerpc import StatusCode

from jobmaster import errors
from jobmaster.api.statuses import status_of
from jobmaster.errors import (
    AuditUnavailable,
    CertificateRefused,
    CgroupError,
    CgroupsRemoved,
    CommandNotFound,
    CommandNotRunnable,
    CommandNotRunnableNow,
    ConfigurationError,
    EventsForgotten,
    ExecutionUnknown,
    HandedOver,
    HostError,
    InputClosed,
    InputRefused,
    InvalidRequest,
    JobError,
    JobNotEnded,
    JobNotFound,
    JobNotRunning,
    JournalUnavailable,
    KilledBeforeExecution,
    LauncherOutdated,
    LimitNotEnforceable,
    NotFrozenYet,
    NotRemembered,
    NoUserForJobs,
    OutputIncomplete,
    OutputUnavailable,
    PauseUnavailable,
    PermissionRefused,
    RequestError,
    RequestIdReused,
    ServerBusy,
    ServerDraining,
    StartRateExceeded,
    StartsRefused,
    TransportError,
)
from jobmaster.threads import NoThread

FOR_THE_CLIENT: Final[dict[type[Exception], StatusCode]] = {
    InvalidRequest: StatusCode.INVALID_ARGUMENT,
    JobNotFound: StatusCode.NOT_FOUND,
    PermissionRefused: StatusCode.PERMISSION_DENIED,
    RequestIdReused: StatusCode.ALREADY_EXISTS,
    EventsForgotten: StatusCode.FAILED_PRECONDITION,
    CommandNotRunnable: StatusCode.FAILED_PRECONDITION,
    CommandNotFound: StatusCode.FAILED_PRECONDITION,
    CommandNotRunnableNow: StatusCode.FAILED_PRECONDITION,
    CgroupsRemoved: StatusCode.FAILED_PRECONDITION,
    LimitNotEnforceable: StatusCode.FAILED_PRECONDITION,
    NoUserForJobs: StatusCode.FAILED_PRECONDITION,
    LauncherOutdated: StatusCode.FAILED_PRECONDITION,
    JobNotRunning: StatusCode.FAILED_PRECONDITION,
    PauseUnavailable: StatusCode.FAILED_PRECONDITION,
    NotFrozenYet: StatusCode.UNAVAILABLE,
    JobNotEnded: StatusCode.FAILED_PRECONDITION,
    InputRefused: StatusCode.FAILED_PRECONDITION,
    InputClosed: StatusCode.FAILED_PRECONDITION,
    ServerBusy: StatusCode.RESOURCE_EXHAUSTED,
    StartRateExceeded: StatusCode.RESOURCE_EXHAUSTED,
    KilledBeforeExecution: StatusCode.UNAVAILABLE,
    ServerDraining: StatusCode.UNAVAILABLE,
    StartsRefused: StatusCode.UNAVAILABLE,
    NotRemembered: StatusCode.UNAVAILABLE,
    JournalUnavailable: StatusCode.UNAVAILABLE,
    AuditUnavailable: StatusCode.UNAVAILABLE,
    OutputUnavailable: StatusCode.UNAVAILABLE,
    HandedOver: StatusCode.UNAVAILABLE,
    ExecutionUnknown: StatusCode.UNAVAILABLE,
}


@pytest.mark.parametrize("kind", FOR_THE_CLIENT)
def test_errors_for_the_client(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """An error that the client can act on keeps its text, has its code, and does not fill the log."""
    status = status_of(kind("say this"))
    assert (status.status_code, status.status_message) == (FOR_THE_CLIENT[kind], "say this")
    assert caplog.records == []


def test_a_kind_of_such_an_error() -> None:
    """A more special error has the code of what it is a kind of."""
    status = status_of(NoThread("say this"))
    assert (status.status_code, status.status_message) == (StatusCode.RESOURCE_EXHAUSTED, "say this")


def test_no_error_for_the_client_is_forgotten() -> None:
    """Every error of the caller's or the job's branch has a code of its own."""
    branches = (RequestError, JobError)
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, branches)}
    assert kinds - set(branches) == FOR_THE_CLIENT.keys()


def test_incomplete_output() -> None:
    """Lost output is DATA_LOSS, with how much."""
    status = status_of(OutputIncomplete(1234))
    assert status.status_code == StatusCode.DATA_LOSS
    assert "1234 bytes" in status.status_message


@pytest.mark.parametrize(
    "kind",
    [
        HostError,
        ConfigurationError,
        CgroupError,
        CertificateRefused,
        TransportError,
        ValueError,
        KeyError,
        AssertionError,
        FileNotFoundError,
    ],
)
def test_any_other_error_stays_inside(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """The client gets INTERNAL and a reference, never the text; the log has both, and the traceback of a bug."""
    try:
        raise kind("/var/lib/secret")
    except kind as error:
        status = status_of(error)
    assert status.status_code == StatusCode.INTERNAL
    assert "secret" not in status.status_message
    reference = re.fullmatch(r"internal error ([0-9a-f]{8}); the server's log has the details", status.status_message)
    assert reference is not None
    assert reference[1] in caplog.text
    assert "secret" in caplog.text
    assert ("Traceback" in caplog.text) is not issubclass(kind, HostError)


def test_references_differ() -> None:
    """Two errors can be told apart."""
    assert len({status_of(ValueError()).status_message for _ in range(20)}) == 20
