"""The errors jobmaster raises on purpose, by who has to act on them.

Four branches: the *caller* asked for something that cannot be (:class:`RequestError`), the *job* could not be
run as asked (:class:`JobError`), the *host* or its configuration does not offer what is needed
(:class:`HostError`), and the *transport* to a peer failed (:class:`TransportError`). Texts of the first two
branches are written for the client and are sent to it; texts of :class:`HostError` are written for the operator
and are never sent to a client. Anything that is not a :class:`JobmasterError` is a bug.
"""

from __future__ import annotations


class JobmasterError(Exception):
    """Base of every error that jobmaster raises on purpose."""


class RequestError(JobmasterError):
    """The caller has to change the request. The text is for the client."""


class InvalidRequest(RequestError):
    """The request is wrong whatever the state of the server: a bad value, named with its remedy.

    Attributes:
        field: the path of the value in the request, named as in the .proto (`args[0]`); None where it is no single one.
    """

    def __init__(self, text: str, *, field: str | None = None) -> None:
        super().__init__(text)
        self.field = field


class JobNotFound(RequestError):
    """No such job for this caller; a job of someone else answers the same."""


class RequestIdReused(RequestError):
    """The caller has given this request id to another request before."""


class EventsForgotten(RequestError):
    """Not all events that were asked for are kept."""


class PermissionRefused(RequestError):
    """The caller's role does not allow this call."""


class OutputIncomplete(JobmasterError):
    """The server does not have part of a job's output. The text is for the client, which makes the same of the gaps it is told."""

    def __init__(self, lost: int, *, dropped: int = 0, missing: int = 0, pruned: int = 0) -> None:
        """Names what is not there.

        Args:
            lost: bytes that were never kept.
            dropped: bytes that were too many to be kept.
            missing: bytes at the end of those that were kept, which are gone.
            pruned: bytes of an ended job that were removed to make room.
        """
        gone = lost + dropped + missing + pruned
        reasons = [
            f"{lost} that its disk did not take" * (lost > 0),
            f"{dropped} that are more than is kept of an output" * (dropped > 0),
            f"{pruned} that were removed to make room for other jobs' output" * (pruned > 0),
            f"{missing} at the end that its disk did not have when the host went down, or that were removed"
            * (missing > 0),
        ]
        named = ", ".join(filter(None, reasons))
        super().__init__(f"the server does not have {gone} bytes of this job's output: {named}; all others were sent")


class JobError(JobmasterError):
    """The job could not be run as asked. The text is for the client."""


class CommandNotRunnable(JobError):
    """The command is not found or not executable for the job's user."""


class CommandNotRunnableNow(CommandNotRunnable):
    """The command cannot be run for a reason that may pass: a disk that does not answer, a file that is being written."""


class CommandNotFound(CommandNotRunnable):
    """There is no such command, as far as the job's user can see."""


class KilledBeforeExecution(JobError):
    """Something outside the server killed the job's process before that executed the command: nothing has run."""


class LimitNotEnforceable(JobError):
    """A limit was asked for that this host cannot enforce; the text names the controller."""


class NoUserForJobs(JobError):
    """There is no user that this client's jobs could run as."""


class CgroupsRemoved(JobError):
    """The cgroup of all jobs was removed under the server, which can start none until it is restarted."""


class LauncherOutdated(JobError):
    """The launcher is of an older version, which cannot do what the job asks for; one that is replaced can."""


class JobNotEnded(JobError):
    """The job has not ended, as it must have for what is asked."""


class JobNotRunning(JobError):
    """The job does not run, or not any more, as it must for what is asked."""


class PauseUnavailable(JobError):
    """The host cannot freeze the job's processes."""


class NotFrozenYet(JobError):
    """A job is paused, but not all of its processes have stopped yet; the same question later is answered."""


class InputRefused(JobError):
    """The job takes no input from this caller: it has no stdin, or somebody else writes to it."""


class InputClosed(JobError):
    """The job takes no more input: it has been ended, or the job reads no more."""


class ServerBusy(JobError):
    """A bound of the server is reached (jobs, handlers); trying again later may help."""


class StartRateExceeded(ServerBusy):
    """The caller has started more jobs than it may in a time.

    Attributes:
        retry_seconds: when it may start one more.
    """

    def __init__(self, text: str, *, retry_seconds: float = 1.0) -> None:
        super().__init__(text)
        self.retry_seconds = retry_seconds


class ServerDraining(JobError):
    """The server is shutting down and takes no new jobs."""


class StartsRefused(JobError):
    """An admin has the server take no new jobs; the text has the admin's note. Trying again soon does not help."""


class NotRemembered(JobError):
    """What an admin has said holds, but is not durable."""


class ExecutionUnknown(ServerDraining):
    """The launcher has died, and nobody knows whether the command was executed; the server ends."""


class JournalUnavailable(JobError):
    """The server cannot record anything now, and so starts nothing; the text says why as far as clients may know.

    Attributes:
        is_doubtful: what was to be recorded may become durable all the same.
    """

    def __init__(self, text: str, *, is_doubtful: bool = False) -> None:
        super().__init__(text)
        self.is_doubtful = is_doubtful


class AuditUnavailable(JobError):
    """The server cannot write down who starts what, and so starts nothing; the text says why as far as clients may know."""


class OutputUnavailable(JobError):
    """The disk of the outputs cannot be written now, and so nothing is started."""


class HandedOver(JobError):
    """This server has left the job to the one that comes after it; the same question to that one is answered."""


class HostError(JobmasterError):
    """The host cannot do what jobmaster needs. The text is for the operator, never for a client."""


class OutputUnreadable(HostError):
    """The file of a job's output is not there, or its disk does not give what was written to it."""


class OutputCutOff(OutputUnreadable):
    """The file of an output became shorter while it was read: somebody has cut it off. The text is for the client."""


class OutputCut(OutputUnreadable):
    """The file of an ended job's output has less than was recorded, `missing` bytes; all that it has was read."""

    def __init__(self, text: str, missing: int) -> None:
        super().__init__(text)
        self.missing = missing


class ConfigurationError(HostError):
    """An option, file or folder is wrong: named, with the remedy. Programs exit 2 with this text."""


class CgroupError(HostError):
    """The cgroup file system refused something; names the folder, the file and the value written."""


class CertificateRefused(JobmasterError):
    """A peer's certificate does not identify a client; the text says why and is for the log only."""


class TransportError(JobmasterError):
    """The connection to a peer failed or the peer broke the protocol."""
