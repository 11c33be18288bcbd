"""From a specification to a process that is inside its cgroup before the command's first instruction.

Theory of operation
-------------------
`/bin/sh` runs a fixed six-line script (no user data is ever part of its text) that writes itself into `cgroup.procs`,
undoes what a job must not inherit (OOM score, file limit, umask) and then executes setpriv(1), which drops user,
groups and capabilities, sets no_new_privs and executes the command. There is no fork in between, so the pid that was
spawned is the job's main process.

Standard input of the script is a pipe to the server. The script reports a failure there and leaves it (for
/dev/null) in the moment it executes setpriv: end-of-file without a word means that the process is in its cgroup.

Whether the command itself was executed is told by the process's name (`comm`), which the kernel changes at each
execve(2) and keeps until the process is reaped: a main process that died under setpriv's own name, with an exit code
that setpriv uses for its failures, never ran its command.

preexec_fn would be simpler and is unsafe beside threads; PDEATHSIG fires when the *thread* that spawned ends.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobmaster.errors import HostError, InvalidRequest, ServerBusy
from jobmaster.host.account import Account
from jobmaster.host.process import ChildProcess
from jobmaster.job.cause import Death, Exited

WORKING_FOLDER: Final = "/"

_SCRIPT: Final = """\
{ echo 0 >"$1"; } 2>&0 || exit 125
{ echo 0 >/proc/self/oom_score_adj; } 2>/dev/null
ulimit -S -n "$2" 2>/dev/null
umask 022
shift 2
exec "$@" </dev/null
"""

_SETPRIV_FAILURES: Final = frozenset({1, 126, 127})

EXHAUSTED: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
"""Errors of the kernel that mean "not now"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """How this host starts jobs.

    Attributes:
        setpriv: absolute path of setpriv(1).
        account: the user the jobs run as.
        drops_privileges: the server is root, so jobs have to be turned into `account`.
        open_files: soft RLIMIT_NOFILE of the jobs.
    """

    setpriv: Path
    account: Account
    drops_privileges: bool
    open_files: int

    def command_line(self, procs_file: Path, argv: tuple[str, ...]) -> list[str]:
        """The argument vector that becomes `argv` inside the cgroup of `procs_file`."""
        return [
            *("/bin/sh", "-c", _SCRIPT, "jobmaster-launch", str(procs_file), str(self.open_files)),
            *(str(self.setpriv), *self._privileges(), "--"),
            *argv,
        ]

    def _privileges(self) -> list[str]:
        if not self.drops_privileges:
            return ["--no-new-privs"]
        if self.account.is_root:  # asked for by name: root with all it has, so that package managers and mounts work
            return ["--inh-caps=-all"]
        groups = ",".join(map(str, self.account.groups))
        return [
            f"--reuid={self.account.uid}",
            f"--regid={self.account.gid}",
            f"--groups={groups}",
            "--inh-caps=-all",
            "--bounding-set=-all",
            "--no-new-privs",
        ]

    def never_ran(self, death: Death, program_name: str) -> str | None:
        """Why the command was never executed, or None when it was. Ask before the process is reaped."""
        match death:
            case Exited(code) if code in _SETPRIV_FAILURES and program_name == self.setpriv.name[:15]:
                return "the kernel did not execute the command; the job's output has the reason"
            case _:
                return None


def spawn(command_line: list[str], environment: dict[str, str], *, output: int, report: int) -> ChildProcess:
    """Spawns a command line with `output` as its stdout and stderr and `report` as its stdin.

    Blocks until the kernel has executed /bin/sh: call it in a worker thread.

    Raises:
        InvalidRequest: the argument vector is more than the kernel takes (execve(2), E2BIG).
        ServerBusy: the host is out of processes, memory or descriptors.
        HostError: the host cannot start a shell.
    """
    try:
        process = subprocess.Popen(
            command_line,
            stdin=report,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=WORKING_FOLDER,
            env=environment,
            start_new_session=True,
            close_fds=True,
        )
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise InvalidRequest(
                f"more arguments than the kernel takes: {len(command_line)} of "
                f"{sum(len(os.fsencode(word)) for word in command_line)} bytes in all; "
                "one may have 128 KiB, all together about 2 MiB",
                field="args",
            ) from None
        if error.errno in EXHAUSTED:
            raise ServerBusy("the server's host has no process, memory or descriptor left for a new job") from error
        raise HostError(f"cannot start /bin/sh: {error.strerror}") from error
    process.returncode = 0  # the pidfd's owner reaps it; this silences Popen's own book-keeping
    try:
        return ChildProcess(process.pid)
    except OSError:  # no descriptor left for its pidfd
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        raise
