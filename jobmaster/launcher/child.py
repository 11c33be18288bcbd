"""From a `start` to a child that is held, and what that child does until it executes the command.

The child is a fork of the launcher: one thread, so that Python code is safe in it. It closes all descriptors but its
own first, takes every step of `_STEPS`, and then waits for the go byte. Its last descriptor is the write end of the
error pipe, close-on-exec: the launcher reads there why there was no exec, and end of file when there was one (or when
the child was killed; `Phase` says how they are told apart).

Descriptors of the child, beside 0, 1 and 2: the output pipe, streams of its own, the go pipe, the error pipe, the memfd
with long strings, and the cgroup's folder where the kernel did not put the child there itself.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import signal
import stat
import termios
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from jobmaster.launcher import kernel
from jobmaster.launcher.protocol import MAX_STRINGS_BYTES, Command, Phase, ProtocolError, Start, unpack_strings
from jobmaster.launcher.table import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_NO_CLONE3: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG})
"""What an older kernel, or a seccomp filter, answers to clone3 or to its CLONE_INTO_CGROUP."""
_NEXT_CANDIDATE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT})
"""After these execvp(3) looks in the next folder of PATH."""
_RECORD_BYTES: Final = 256
HANDLED_SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGTTOU,
    signal.SIGTTIN,
    signal.SIGCHLD,
)
"""What the launcher handles or ignores itself."""
_FAILED: Final = 127


class Heritage(NamedTuple):
    """What this host and the launcher's own start say of every child, read once.

    Attributes:
        ignored: signals that were ignored at the launcher's start or that Python ignores.
        last_capability: the kernel's highest capability.
    """

    ignored: tuple[int, ...]
    last_capability: int


class StartDescriptors(NamedTuple):
    """The descriptors of a `start`; `strings` is None where the message has them, `streams` and `keeps` are by name."""

    output_write: int
    output_read: int
    go: int
    cgroup: int
    strings: int | None
    streams: Mapping[str, int]
    keeps: Mapping[str, int]


class HeldChild(NamedTuple):
    """A child that was forked: its pid, its pidfd and the read end of its error pipe, non-blocking."""

    pid: int
    pidfd: int
    errors: int


class _Abandoned(Exception):
    """The go pipe ended without the byte."""


def spawn(start: Start, descriptors: StartDescriptors, heritage: Heritage) -> HeldChild:
    """Forks a child that goes through the steps and waits for the go byte.

    The caller closes all `descriptors`; the child has its own.

    Raises:
        OSError: there is no child, and no descriptor is left open.
    """
    for fd in (descriptors.output_write, *descriptors.streams.values()):
        _give_stream(fd, start)
    errors_read, errors_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    launcher = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)  # a handler in the child would wake this process
    try:
        pid, pidfd, is_in_cgroup = _fork(descriptors.cgroup)
        if pid == 0:
            _Child(
                start, descriptors, heritage, errors=errors_write, launcher=launcher, is_in_cgroup=is_in_cgroup
            ).run()
    except BaseException:
        os.close(errors_read)
        raise
    finally:
        os.close(errors_write)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return HeldChild(pid=pid, pidfd=pidfd, errors=errors_read)


def _give_stream(fd: int, start: Start) -> None:
    """Makes the job's user the owner of a pipe or a terminal, so that the job may open /dev/stderr."""
    if start.uid is not None and start.gid is not None and (stat.S_ISFIFO(os.fstat(fd).st_mode) or os.isatty(fd)):
        os.fchown(fd, start.uid, start.gid)


def _fork(cgroup: int) -> tuple[int, int, bool]:
    """Forks: pid, pidfd, and whether the kernel put the child into the cgroup."""
    try:
        return *kernel.clone_into_cgroup(cgroup), True
    except OSError as error:
        if error.errno not in _NO_CLONE3:
            raise
    pid = os.fork()
    if pid == 0:
        return 0, -1, False
    try:
        return pid, os.pidfd_open(pid), False
    except OSError:
        os.kill(pid, signal.SIGKILL)  # our child and not reaped, so no other process; reaped as one that nobody knows
        raise


def read_outcome(errors: int, pid: int, *, is_dead: bool) -> Outcome | None:
    """What the error pipe says by now; None while that is not known.

    End of file means that the child has executed its command or was killed before. A child that lives has executed it where it
    has memory: what dies gives that up before its files. Of one that is dead the kernel keeps which; also when the pipe has
    not ended with it: a server that is not root can't hide it from its user's processes.

    A child that lives may execute any program by now, and that the next one. So it is never asked in a way that waits for an
    execve(2) to end, as /proc/PID/stat does: that may close files on a disk that does not answer.
    """
    try:
        record = os.read(errors, _RECORD_BYTES)
    except BlockingIOError:
        if not is_dead:
            return None
        record = b""
    if not record and is_dead:
        return Outcome(phase=Phase.EXECUTED if kernel.read_stat(pid).executed else Phase.NEVER_RAN)
    if not record:
        return Outcome(phase=Phase.EXECUTED) if kernel.has_memory(pid) else None
    phase, number, stage = record.decode(errors="replace").split(" ", 2)
    return Outcome(phase=Phase(phase), errno=int(number), stage=stage)


class _Child:
    """The child, between the fork and the exec."""

    def __init__(
        self,
        start: Start,
        descriptors: StartDescriptors,
        heritage: Heritage,
        *,
        errors: int,
        launcher: int,
        is_in_cgroup: bool,
    ) -> None:
        self.start = start
        self.descriptors = descriptors
        self.heritage = heritage
        self.errors = errors
        self.launcher = launcher
        self.is_in_cgroup = is_in_cgroup
        self.stage = "fork"
        self.command = Command(working_folder=b"/", arguments=(), environment={})
        self.candidates: list[bytes] = []

    def run(self) -> NoReturn:
        """Becomes the command, or reports why not; ends the process in any case."""
        try:
            gc.disable()
            for stage, step in _STEPS:
                self.stage = stage
                step(self)
        except _Abandoned:
            self._report(Phase.ABANDONED, self.stage, 0)
        except OSError as error:
            self._report(Phase.FAILED, self.stage, error.errno or errno.EIO)
        except BaseException as error:  # noqa: ASYNC103, BLE001  # there is no event loop; nothing may return from here
            self._report(Phase.FAILED, f"{self.stage} ({type(error).__name__})", errno.EIO)
        finally:
            os._exit(_FAILED)

    def _report(self, phase: Phase, stage: str, number: int) -> None:
        os.write(self.errors, f"{phase.value} {number} {stage}".encode()[:_RECORD_BYTES])

    def close_others(self) -> None:
        keep = [self.descriptors.output_write, self.descriptors.go, self.errors, *self.descriptors.streams.values()]
        if self.descriptors.strings is not None:
            keep.append(self.descriptors.strings)
        if not self.is_in_cgroup:
            keep.append(self.descriptors.cgroup)
        low = 3  # the launcher's standard streams, until the child has its own
        for fd in sorted(keep):
            os.closerange(low, fd)
            low = fd + 1
        os.closerange(low, 2**31 - 1)

    def take_strings(self) -> None:
        strings, fd = self.start.strings, self.descriptors.strings
        if fd is not None:
            strings = _read_whole(fd)
            os.close(fd)
        self.command = unpack_strings(strings, self.start.argument_count)

    def join_cgroup(self) -> None:
        if self.is_in_cgroup:
            return
        fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.descriptors.cgroup)
        os.write(fd, b"0")
        os.close(fd)
        os.close(self.descriptors.cgroup)

    def new_session(self) -> None:
        os.setsid()

    def new_keyring(self) -> None:
        try:
            kernel.join_new_session_keyring()
        except OSError as error:
            # ENOSYS, EPERM: a kernel or seccomp filter without keyrings, in the job as well. EDQUOT: 200 keys are all
            # that a user has; only a server that is not root, whose jobs share its keys anyway, gets there.
            if error.errno not in {errno.ENOSYS, errno.EPERM} and not (
                error.errno == errno.EDQUOT and self.start.uid is None
            ):
                raise

    def default_signals(self) -> None:
        signal.set_wakeup_fd(-1)  # its descriptor is closed
        for number in (*self.heritage.ignored, *HANDLED_SIGNALS):  # exec resets what is handled, but now is not then
            kernel.set_default_disposition(number)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def set_umask(self) -> None:
        os.umask(self.start.umask)

    def set_nice(self) -> None:
        if os.getpriority(os.PRIO_PROCESS, 0) == self.start.nice:
            return
        try:
            os.setpriority(os.PRIO_PROCESS, 0, self.start.nice)
        except PermissionError:
            if self.start.uid is not None:  # a server that is not root may only become nicer
                raise

    def set_oom_score(self) -> None:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % self.start.oom_score_adj)
        except PermissionError:
            pass  # below what this process was started with; so the launcher has not lowered its own either
        finally:
            os.close(fd)

    def set_streams(self) -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        output, own = self.descriptors.output_write, self.descriptors.streams
        terminal = own.get("terminal")
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            output = null = terminal
        for source, target in ((own.get("stdin", null), 0), (output, 1), (own.get("stderr", output), 2)):
            os.dup2(source, target)
        for source in {null, output, self.descriptors.output_write, *own.values()}:
            os.close(source)

    def limit_open_files(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft = self.start.open_files if hard == resource.RLIM_INFINITY else min(self.start.open_files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def drop_bounding_set(self) -> None:
        kernel.clear_inherited_capabilities()
        if self.start.uid is not None and not self.start.keeps_capabilities:
            kernel.drop_bounding_set(self.heritage.last_capability)

    def become_user(self) -> None:
        uid, gid = self.start.uid, self.start.gid
        if uid is None or gid is None:
            return
        os.setgroups(self.start.groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)

    def drop_capabilities(self) -> None:
        if self.start.uid is not None and not self.start.keeps_capabilities:
            kernel.clear_capabilities()

    def gain_nothing(self) -> None:
        if not self.start.keeps_capabilities:
            kernel.set_no_new_privileges()

    def die_with_launcher(self) -> None:
        kernel.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != self.launcher:
            os._exit(_FAILED)

    def enter_folder(self) -> None:
        os.chdir(self.command.working_folder)

    def look_up(self) -> None:
        """Looks the command up as the job's user; the folders of PATH from the first that has it are left to exec."""
        candidates = list(_candidates(self.command))
        first = _first_accepted(candidates, _check_executable)
        self.candidates = candidates[first:]

    def wait_for_go(self) -> None:
        if not os.read(self.descriptors.go, 1):
            raise _Abandoned

    def execute(self) -> None:
        arguments, environment = self.command.arguments, self.command.environment
        _first_accepted(self.candidates, lambda path: os.execve(path, arguments, environment))  # noqa: S606  # the point


_STEPS: Final[tuple[tuple[str, Callable[[_Child], None]], ...]] = (
    ("descriptors", _Child.close_others),
    ("strings", _Child.take_strings),
    ("cgroup", _Child.join_cgroup),
    ("session", _Child.new_session),
    ("keyring", _Child.new_keyring),
    ("signals", _Child.default_signals),
    ("umask", _Child.set_umask),
    ("nice", _Child.set_nice),
    ("oom_score_adj", _Child.set_oom_score),
    ("streams", _Child.set_streams),
    ("open_files", _Child.limit_open_files),
    ("bounding_set", _Child.drop_bounding_set),  # needs CAP_SETPCAP, and so comes before the user
    ("user", _Child.become_user),
    ("capabilities", _Child.drop_capabilities),
    ("no_new_privs", _Child.gain_nothing),
    ("parent_death", _Child.die_with_launcher),  # setresuid(2) clears it
    ("working_folder", _Child.enter_folder),
    ("lookup", _Child.look_up),
    ("go", _Child.wait_for_go),
    ("exec", _Child.execute),
)


def _read_whole(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > MAX_STRINGS_BYTES:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    data = os.pread(fd, size, 0)
    if len(data) != size:
        raise ProtocolError("the memfd changed")
    return data


def _candidates(command: Command) -> Iterator[bytes]:
    name = command.arguments[0]
    if b"/" in name or not name:
        yield name
        return
    for folder in command.environment.get(b"PATH", os.fsencode(os.defpath)).split(b":"):
        yield os.path.join(folder or b".", name)  # noqa: PTH118  # bytes, and the child imports no more


def _check_executable(path: bytes) -> None:
    """Raises what execve(2) would, as far as it can be told without executing."""
    if not stat.S_ISREG(os.stat(path).st_mode) or not os.access(path, os.X_OK):  # noqa: PTH116  # as above
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _first_accepted(candidates: Iterable[bytes], attempt: Callable[[bytes], object]) -> int:
    """Which candidate is the first that `attempt` does not refuse, by the rules of execvp(3).

    A file that is missing is passed over, one that is denied as well but remembered, and anything else is final, also
    ENOEXEC: what the kernel does not execute is not fed to a shell.

    Raises:
        OSError: none was accepted: EACCES if one was denied, else the last error.
    """
    denied: OSError | None = None
    missing = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for index, path in enumerate(candidates):
        try:
            attempt(path)
        except OSError as error:
            if error.errno == errno.EACCES:
                denied = error
            elif error.errno in _NEXT_CANDIDATE:
                missing = error
            else:
                raise
        else:
            return index
    raise denied or missing
