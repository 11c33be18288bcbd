"""A caller's own name for a Start, by which a Start that is repeated finds the job of the first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from jobmaster.errors import CommandNotFound, CommandNotRunnable, CommandNotRunnableNow, InvalidRequest, JobmasterError
from jobmaster.job.secret import masked_words
from jobmaster.job.specification import JobSpecification

_FORM: Final = re.compile(r"[!-~]([ -~]{0,126}[!-~])?", re.ASCII)
"""1 to 128 printable characters, none of which is a space at either end."""

_DIGEST_MASK: Final = "\udcff"
"""A byte that is in no word, for words are UTF-8: a secret is told apart from any text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """A request id of one client, and the digest of everything else that the Start asked for, but for its secrets.

    Values of environment variables count as secrets: their names are in the digest alone.

    The digest is in the journal and its backups, where one of a secret would let it be guessed; and one with a key would need
    a key that is kept as long as the journal and never with it. So a Start that comes again with another secret in the same
    place, a token that was renewed for example, finds the job of the first.

    Raises:
        InvalidRequest: the id is not of 1 to 128 printable ASCII characters.
    """

    id: str
    digest: bytes

    def __post_init__(self) -> None:
        if _FORM.fullmatch(self.id) is None:
            raise InvalidRequest(
                "request_id must be 1 to 128 printable ASCII characters without a space at either end; a UUID does",
                field="request_id",
            )

    @classmethod
    def of(cls, request_id: str, specification: JobSpecification) -> RequestKey:
        """The key of a Start."""
        digest = sha256()
        for word in masked_words(specification.argv, specification.secrets, _DIGEST_MASK):
            digest.update(word.encode("utf-8", "surrogateescape") + b"\0")
        for option in ("stdin", "separate_streams", "terminal"):
            if getattr(specification, option):  # what is not asked for is left out: older requests keep their digests
                # of a terminal, that there is one: who asks again may sit before another
                digest.update(b"\0" + option.encode())
        if specification.output_max or specification.ends_when_full:
            digest.update(b"\0output %d %d" % (specification.output_max, specification.ends_when_full))
        if (run_time := specification.run_time) is not None:
            digest.update(b"\0run_time %d %d %d" % (run_time.max_ms, run_time.warn_before_ms, run_time.warn_signal))
        if (stop := specification.stop) is not None:
            digest.update(b"\0stop %d %d" % (stop.signal, -1 if stop.grace_ms is None else stop.grace_ms))
        if specification.name or specification.labels:
            words = (specification.name, *(word for label in specification.labels for word in label))
            digest.update(b"\0labels " + "\0".join(words).encode("utf-8", "surrogateescape"))  # no word has a NUL
        if specification.environment:
            digest.update(b"\0environment " + " ".join(name for name, _ in specification.environment).encode())
        if specification.working_folder:
            digest.update(b"\0folder " + specification.working_folder.encode("utf-8", "surrogateescape"))
        if specification.limits:
            digest.update(b"\0limits " + specification.limits.canonical().encode())
        return cls(id=request_id, digest=digest.digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestError:
    """The error that a Start got whose command could not be executed; a Start with the same request id gets it too."""

    kind: str
    text: str

    def error(self) -> JobmasterError:
        """The error again."""
        return _KINDS[self.kind](self.text)


_KINDS: Final[dict[str, type[JobmasterError]]] = {
    "command_not_found": CommandNotFound,  # before its base class
    "command_not_runnable": CommandNotRunnable,
    "invalid_request": InvalidRequest,
}


def request_error_of(error: JobmasterError) -> RequestError | None:
    """What is to be repeated of an error of Start; None for one that may pass."""
    if isinstance(error, CommandNotRunnableNow):
        return None
    for kind, each in _KINDS.items():
        if isinstance(error, each):
            return RequestError(kind=kind, text=str(error))
    return None
