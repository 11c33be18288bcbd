"""The one table from jobmaster's errors to gRPC statuses."""

from __future__ import annotations

import logging
import secrets
from typing import Final

from jobmaster.errors import (
    AuditUnavailable,
    CgroupsRemoved,
    CommandNotRunnable,
    EventsForgotten,
    HandedOver,
    HostError,
    InputClosed,
    InputRefused,
    InvalidRequest,
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
    OutputCutOff,
    OutputIncomplete,
    OutputUnavailable,
    PauseUnavailable,
    PermissionRefused,
    RequestIdReused,
    ServerBusy,
    ServerDraining,
    StartsRefused,
)
from jobmaster.grpc.headers import DetailedStatus
from jobmaster.grpc.purerpc_adapter import StatusCode
from jobmaster.grpc.status_details import internal_status, status_for_client

logger = logging.getLogger(__name__)

_CODES: Final[dict[type[BaseException], StatusCode]] = {
    InvalidRequest: StatusCode.INVALID_ARGUMENT,
    JobNotFound: StatusCode.NOT_FOUND,
    PermissionRefused: StatusCode.PERMISSION_DENIED,
    EventsForgotten: StatusCode.FAILED_PRECONDITION,
    CommandNotRunnable: StatusCode.FAILED_PRECONDITION,
    LimitNotEnforceable: StatusCode.FAILED_PRECONDITION,
    NoUserForJobs: StatusCode.FAILED_PRECONDITION,
    CgroupsRemoved: StatusCode.FAILED_PRECONDITION,
    LauncherOutdated: StatusCode.FAILED_PRECONDITION,
    JobNotRunning: StatusCode.FAILED_PRECONDITION,
    PauseUnavailable: StatusCode.FAILED_PRECONDITION,
    NotFrozenYet: StatusCode.UNAVAILABLE,
    JobNotEnded: StatusCode.FAILED_PRECONDITION,
    InputRefused: StatusCode.FAILED_PRECONDITION,
    InputClosed: StatusCode.FAILED_PRECONDITION,
    ServerBusy: StatusCode.RESOURCE_EXHAUSTED,
    KilledBeforeExecution: StatusCode.UNAVAILABLE,
    ServerDraining: StatusCode.UNAVAILABLE,
    StartsRefused: StatusCode.UNAVAILABLE,
    NotRemembered: StatusCode.UNAVAILABLE,
    RequestIdReused: StatusCode.ALREADY_EXISTS,
    JournalUnavailable: StatusCode.UNAVAILABLE,
    AuditUnavailable: StatusCode.UNAVAILABLE,
    OutputUnavailable: StatusCode.UNAVAILABLE,
    HandedOver: StatusCode.UNAVAILABLE,
    OutputIncomplete: StatusCode.DATA_LOSS,
    OutputCutOff: StatusCode.DATA_LOSS,
}


class ServiceUnknown(Exception):
    """The server has no service of this name."""


_CODES[ServiceUnknown] = StatusCode.NOT_FOUND


def status_of(error: Exception) -> DetailedStatus:
    """The status for an error of a handler.

    Errors written for the client keep their text. Any other is logged, with its traceback where it is a bug, and the
    client gets a fixed text with a number that the log has too.
    """
    for kind in type(error).__mro__:
        if (code := _CODES.get(kind)) is not None:
            return status_for_client(code, error)
    reference = secrets.token_hex(4)
    if isinstance(error, HostError):
        logger.error("internal error %s: %s", reference, error)
    else:
        logger.error("internal error %s", reference, exc_info=error)
    return internal_status(reference)
