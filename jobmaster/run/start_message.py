"""The message that asks the launcher for a child."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from jobmaster.launcher import protocol
from jobmaster.run.child import Launch

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def start_message(
    launch: Launch, descriptors: list[int], *, streams: tuple[str, ...] = (), keeps: tuple[str, ...] = ()
) -> protocol.Start:
    """The message; long strings go into a memfd, which is appended to `descriptors`."""
    strings = protocol.pack_strings(launch.working_folder, launch.argv, launch.environment)
    if len(strings) > protocol.MAX_STRINGS_BYTES:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    if len(strings) > protocol.INLINE_BYTES:
        descriptors.append(_sealed(strings))
        strings = b""
    account = launch.account
    return protocol.Start(
        id=launch.id,
        uid=None if account is None else account.uid,
        gid=None if account is None else account.gid,
        groups=() if account is None else account.groups,
        keeps_capabilities=account is not None and account.keeps_capabilities,
        umask=launch.umask,
        open_files=launch.open_files,
        nice=launch.nice,
        oom_score_adj=launch.oom_score_adj,
        argument_count=len(launch.argv),
        streams=streams,
        keeps=keeps,
        strings=strings,
    )


def _sealed(data: bytes) -> int:
    """A memfd with this content that nobody can change."""
    fd = os.memfd_create("jobmaster-start", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
