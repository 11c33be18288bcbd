"""The servers, one after the other: started, followed by the next one, and ended with the jobs when that is due."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from jobmaster.launcher import server
from jobmaster.launcher.connection import Connection
from jobmaster.launcher.pipe_locks import Waiting, waiting
from jobmaster.launcher.server import Server
from jobmaster.launcher.streams import say
from jobmaster.launcher.succession import GiveUp, Next
from jobmaster.launcher.watchdog import watchdog_seconds

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from jobmaster.launcher.notification import Notifier
    from jobmaster.launcher.packets import Received
    from jobmaster.launcher.poller import Poller
    from jobmaster.launcher.protocol import ProtocolError, Ready
    from jobmaster.launcher.snapshot import Snapshot

END_SECONDS: Final = 10.0
"""How long a server may take to die when it has closed its socket, or has said that it ends; and, where it follows another
and is not ready, to heed a signal to end."""
READY_SECONDS: Final = 180.0
"""How long a server that follows another may take to be ready, or to begin ending the jobs. The bounds of a recovery on
disks that do not answer add up to 145 s (`run.recovery`, `run.local`), and its program has to be read before; what is left of the
default `--max-gap`, two minutes, is for the next one, whose program may be a better one by then."""
STOP_SECONDS: Final = 45.0
"""The same for a server that is to end the jobs, or is the first and has been told to end: with `END_SECONDS` less than the
minute that a service manager waits."""
LOOK_SECONDS: Final = 1.0
"""Between two looks at the server: while a thread of it is left in the kernel, nothing else tells that it has died."""
DEAD_LOOKS: Final = 2
"""At so many looks in a row it is dead, and not about to be reaped: what it has sent was read in between."""
STUCK_LOOKS: Final = 3
"""After each so many looks more the jobs that hold it up are looked for: all clients wait meanwhile."""
_END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Hooks(NamedTuple):
    """What is done elsewhere.

    Attributes:
        on_message: a server has said something.
        on_gone: a server was reaped, and another one is to follow.
        kill_jobs: the jobs are to end with the server.
        renew: the next server is about to be started, after one that has handed over.
        end_holders: jobs that keep threads of a dead server waiting are to end; returns their ids.
    """

    on_message: Callable[[Received], None]
    on_gone: Callable[[], None]
    kill_jobs: Callable[[], None]
    renew: Callable[[], None]
    end_holders: Callable[[Waiting, bool], list[str]]


class Servers:
    """Whoever is the server, and what follows.

    Attributes:
        current: the server that there is.
        started: how many there have been.
        has_ended: there will be no other, and this process is to end.
        said_farewell: the last one has ended its jobs.
    """

    def __init__(
        self, poller: Poller, known: Snapshot, command: tuple[str, ...] | None, notifier: Notifier, hooks: Hooks
    ) -> None:
        self.current: Server | None = None
        self.started = known.servers
        self.has_ended = False
        self.said_farewell = False
        self.succession = known.succession
        self._poller = poller
        poller.on_suspended = self.succession.on_suspended
        self._origin = known.origin
        self._command = command
        self._notifier = notifier
        self._hooks = hooks
        self._most_silence = watchdog_seconds(os.environ)
        """Seconds that a server may be silent; None: for ever."""
        self._status: int | None = None
        """The wait status of the last one."""
        self._gave_up = False

    def start(self) -> None:
        """Starts a server, unless there is one."""
        if self.has_ended or self.current is not None or self._command is None:
            return
        try:
            pid, pidfd, sock = server.start(self._command, self._origin)
        except OSError as error:
            say(f"jobmaster: cannot start a server: {error.strerror}")
            self._status = None
            self._follow(None)
            return
        self.use(pid, pidfd, sock)

    def use(self, pid: int | None, pidfd: int, sock: socket.socket) -> None:
        """Serves the server at the other end of this socket."""
        connection = Connection(
            sock, self._poller, on_message=self._hooks.on_message, on_error=_on_error, on_end=self._on_socket_end
        )
        self.started += 1
        current = self.current = Server(pid, pidfd, connection, is_to_stop=self.succession.is_stopping)
        if pid is None:
            return
        self._poller.call_later(LOOK_SECONDS, partial(self._look, current))
        if self.succession.has_begun:
            seconds = STOP_SECONDS if current.is_to_stop else READY_SECONDS
            why = f"was not ready {seconds:g} s after its start"
            self._poller.call_later(seconds, partial(self._on_late, current, why))

    def go_on(self) -> None:
        """Where another program has left off: between two servers."""
        self._begin_gap()
        self.start()

    def pass_on(self, number: int) -> None:
        """Passes a signal on; where there is no server, the next one is started to receive it."""
        if number in _END_SIGNALS:
            self.succession.is_stopping = True
        if self.current is not None:
            self.current.signal(number)
            if number in _END_SIGNALS:
                self._bound_stop(self.current)
        elif number in _END_SIGNALS:
            self.start()

    def lives(self) -> bool:
        """Whether the server lives at this moment, as the kernel has it: what is read of it may be from before its death."""
        return self.current is not None and self.current.lives()

    def exit_status(self) -> int:
        """What this process ends with: as the last server did."""
        if self._gave_up:
            return 1
        if self._status is None:
            return 0 if self._command is None else 1
        code = os.waitstatus_to_exitcode(self._status)
        if code >= 0:
            return code
        say(f"jobmaster: the server {_how(self._status)}; its jobs were ended")
        return 128 - code

    def grace(self) -> float:
        """Seconds that the jobs have to end by themselves: only where they were to be ended, and no server has done it."""
        is_asked = self.succession.has_begun and self.succession.is_stopping and not self.said_farewell
        return self.succession.grace if is_asked else 0

    # What a server says of itself.

    def on_ready(self, ready: Ready) -> None:
        """The server serves: what it leaves is for the next one from here on."""
        if self.current is not None:
            self.current.is_ready = True
            self.succession.on_ready(
                time.monotonic(), max_gap=ready.max_gap, max_crashes=ready.max_crashes, grace=ready.grace
            )
            self._notifier.ready()

    def on_alive(self) -> None:
        """The server goes on."""
        if self.current is not None:
            self.current.silent_looks = 0

    def on_stopping(self) -> None:
        """The server ends the jobs."""
        self.succession.is_stopping = True
        if self.current is not None:
            self.current.is_stopping = True
        self._notifier.stopping()

    def on_farewell(self) -> None:
        """The server has ended the jobs."""
        self.said_farewell = True
        self._notifier.stopping()

    def on_hand_over(self) -> None:
        """The server is about to end, for another one to follow."""
        if self.current is not None and self.succession.has_begun:
            self.current.hands_over = True
            self._notifier.reloading()
            self._poller.call_later(END_SECONDS, partial(self._end, self.current))

    # How a server ends.

    def on_reaped(self, statuses: Mapping[int, int]) -> None:
        """Processes were reaped, by pid; the server may be among them."""
        ended = self.current
        if ended is None or ended.pid is None or ended.pid not in statuses:
            return
        self._status = statuses[ended.pid]
        ended.on_reaped()
        if not self._is_followed():
            self.has_ended = True
            return
        self.current = None
        self._hooks.on_gone()
        self._follow(ended)

    def _is_followed(self) -> bool:
        """Whether an end of the server that there is now is not the end of the jobs."""
        return self.succession.has_begun and not self.said_farewell and not self.has_ended

    def _on_socket_end(self) -> None:
        """The server's end of the socket is closed: it is dying, or about to end after its farewell."""
        if self._is_followed():
            self._begin_gap()
        elif not self.said_farewell:
            self._hooks.kill_jobs()
        if self.current is None or self.current.pid is None:
            self.has_ended = True
        elif not self.current.is_ending:
            self.current.is_ending = True
            self._poller.call_later(END_SECONDS, partial(self._end, self.current))

    def _end(self, ending: Server) -> None:
        """A server that was to end lives on: a thread in uninterruptible sleep keeps it, even when killed."""
        if self.current is not ending or self.has_ended:
            return
        if self._is_followed() and ending.looks_dead:
            return  # what can be done `_look` does
        say(f"jobmaster: the server has not died within {END_SECONDS:g} s of its end; does its output disk answer?")
        if self._is_followed():
            ending.signal(signal.SIGKILL)  # the next one is started when this one is reaped
        else:
            self._status = ending.left_status()
            self.has_ended = True

    # A server that does not end, or does not begin.

    def _look(self, server: Server) -> None:
        if self.current is not server or self.has_ended:
            return
        self._poller.call_later(LOOK_SECONDS, partial(self._look, server))
        server.look()
        self._end_silent(server)
        if server.looks_dead == DEAD_LOOKS:
            self._on_socket_end()  # which a thread that is left keeps open
            if self.succession.is_stopping:
                self._bound_stop(server)
        stuck, remainder = divmod(server.looks_dead - DEAD_LOOKS, STUCK_LOOKS)
        if stuck > 0 and remainder == 0:
            self._free(server, stuck)

    def _end_silent(self, server: Server) -> None:
        """A server that serves and hangs is killed, for another one to go on with the jobs."""
        silence = (server.silent_looks or 0) * LOOK_SECONDS
        if self._most_silence is not None and silence > self._most_silence and server.is_expected_to_speak:
            server.given_up = f"has not said that it is alive for {silence:g} s"
            server.signal(signal.SIGKILL)

    def _free(self, dead: Server, times: int) -> None:
        """Ends the jobs that keep a dead server in the kernel; where there are none, time will tell, or ends all."""
        if dead.pid is None:
            return
        left = waiting(dead.pid)
        ended = self._hooks.end_holders(left, times > 1)
        if ended:
            names = ", ".join(ended)
            say(f"jobmaster: the server has died, but waits for pipes that jobs have locked; they are ended: {names}")
        elif times == 2:  # the first time nothing was sure
            where = ", ".join(sorted(set(left.where))) or "unknown"
            say(f"jobmaster: the server has died, but is left in the kernel ({where}); does its output disk answer?")

    def _on_late(self, server: Server, why: str) -> None:
        """A server that is not up when it should be is killed; the next one is started when it is reaped."""
        if self.current is not server or self.has_ended or server.is_up or server.looks_dead:
            return
        server.given_up = why
        if not self._is_followed():
            say(f"jobmaster: the server {why}, and is killed")
        server.signal(signal.SIGKILL)

    def _bound_stop(self, server: Server) -> None:
        """A signal to end may never be heeded, where the server has died or hangs."""
        if server.pid is not None:
            seconds = END_SECONDS if self.succession.has_begun else STOP_SECONDS
            self._poller.call_later(seconds, partial(self._on_unheeded, server, seconds))

    def _on_unheeded(self, server: Server, seconds: float) -> None:
        if self.current is not server or self.has_ended or self.said_farewell:
            return  # where the jobs are ended, only its own end is awaited
        if server.looks_dead >= DEAD_LOOKS:
            self._give_up("the server that was to end the jobs has died, and cannot be followed by another one")
        else:
            self._on_late(server, f"was not ready {seconds:g} s after the signal to end")

    # What follows.

    def _follow(self, ended: Server | None) -> None:
        """There is no server, or none could be started: starts another one, now or later, or ends the jobs."""
        if not self.succession.has_begun:
            self.has_ended = True
            return
        was_ready, handed_over = (ended.is_ready, ended.hands_over) if ended is not None else (False, False)
        said = "has handed its jobs over" if handed_over else _how(self._status)
        said += "" if was_ready else " before it was ready"
        if ended is not None and ended.given_up:
            said = f"{ended.given_up}, and was killed"
        was_to_stop = ended.is_to_stop if ended is not None else self.succession.is_stopping
        decision = self.succession.on_end(
            time.monotonic(), was_ready=was_ready, handed_over=handed_over, was_to_stop=was_to_stop
        )
        match decision:
            case GiveUp(why=why):
                say(f"jobmaster: the server {said}")
                self._give_up(why)
            case Next(pause=pause):
                say(f"jobmaster: the server {said}; its jobs go on, and another one is started in {pause:g} s")
                if not handed_over:
                    self._notifier.recovering()
                self._begin_gap()
                self._poller.call_later(pause, partial(self._start_next, self.started, after_hand_over=handed_over))

    def _start_next(self, started: int, *, after_hand_over: bool) -> None:
        if started != self.started:
            return
        if after_hand_over:
            self._hooks.renew()
        self.start()

    def _begin_gap(self) -> None:
        end = self.succession.on_silence(time.monotonic())
        self._poller.call_later(max(0.0, end - time.monotonic()), self._on_gap)

    def _on_gap(self) -> None:
        if not self.has_ended and self.succession.is_gap_too_long(time.monotonic()):
            self._give_up(self.succession.gap_text())

    def _give_up(self, why: str) -> None:
        say(f"jobmaster: {why}; its jobs are ended")
        self._gave_up = True
        self.has_ended = True
        if self.current is not None:
            self.current.signal(signal.SIGKILL)


def _how(wait_status: int | None) -> str:
    """How a server ended, for people."""
    if wait_status is None:
        return "was not started"
    code = os.waitstatus_to_exitcode(wait_status)
    if code >= 0:
        return f"ended with status {code}"
    return f"was killed by signal {-code} ({signal.strsignal(-code)})"


def _on_error(error: ProtocolError) -> None:
    say(f"launcher: {error}")
