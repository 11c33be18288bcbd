"""`run`: a command somewhere else, as if it ran here.

The first Ctrl-C or SIGTERM asks the job to stop and goes on showing its output; the second one kills the job; the third
one ends this program at once, whatever becomes of the job. One that comes before the job has started stops it as soon as
it has; the next one ends this program, whose start the server then undoes, unless the command may be executed by then.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.cli.attaching import JobEnd, copy, despite_losses, how_to_attach, say, words_of
from jobmaster.cli.descriptors import OutputFailed, is_stdin_given, write_output
from jobmaster.cli.exit_status import DONE, OF_SIGNAL, OURS, REASONS, ended_by_itself, exit_status
from jobmaster.cli.presentation import how_to_find, killed_for_memory
from jobmaster.cli.terms import NoSuchVariable, start_arguments
from jobmaster.client import InputLost, Jobs, LimitsIgnored, OutputIncomplete, RpcFailedError, new_request_id
from jobmaster.client.masking import is_text
from jobmaster.errors import TransportError
from jobmaster.grpc.purerpc_adapter import StatusCode

if TYPE_CHECKING:
    from jobmaster.cli.actions import Run
    from jobmaster.cli.terminal import RawMode
    from jobmaster.jobs.v1 import jobs_pb2 as pb

INTERRUPTIONS: Final = (signal.SIGINT, signal.SIGTERM)


class Runner:
    """One job, from its start to its end."""

    def __init__(self, jobs: Jobs, action: Run) -> None:
        self._jobs = jobs
        self._argv = action.argv
        self._output = action.output
        self._terms = action.terms
        self._detach = action.detach
        self._has_stdin = (is_stdin_given() and not action.detach) if action.stdin is None else action.stdin
        self._separate = action.separate
        self._needs_stdin = action.stdin is True
        self._tty = action.tty
        self._detach_keys = action.detach_keys
        self._mode: RawMode | None = None
        """Of this terminal, where that is the job's."""
        self._secret_env = action.secret_env
        self._request_id = action.request_id or new_request_id()
        self._job_id = ""
        self._started = trio.Event()
        self._job_end = JobEnd(jobs)

    async def run(self) -> tuple[int, str]:
        """Runs the command: the exit status, and what is still to be written. What went wrong has been said."""
        if self._tty and not self._detach and not self._take_terminal():
            return OURS, ""
        if self._detach:
            return await self._start(), f"{self._job_id}\n" if self._job_id else ""
        status = OURS
        with _interruptions() as signals:
            async with trio.open_nursery() as nursery:
                if signals is not None:
                    nursery.start_soon(self._obey, signals)
                status = await self._start()
                if self._job_id:
                    self._started.set()
                    status = await self._follow()
                nursery.cancel_scope.cancel()
        return status, ""

    def _take_terminal(self) -> bool:
        from jobmaster.cli.terminal import RawMode, has_terminal  # here, because few jobs have one

        if not has_terminal():
            say(
                "-t makes this terminal the job's, but standard input and output are no terminal, so no job was started"
            )
            return False
        self._mode = RawMode(heeded=INTERRUPTIONS)
        return True

    # --- the job --------------------------------------------------------------------------------------------------

    async def _start(self) -> int:
        """Starts the job; returns the exit status, where that is all."""
        if missing := [name for name in self._secret_env if not os.environ.get(name)]:
            say(f"--secret-env {missing[0]}: there is no such environment variable, or it is empty")
            return OURS
        try:
            given = start_arguments(self._terms)
        except NoSuchVariable as error:
            say(str(error))
            return OURS
        secrets = {name: os.environ[name] for name in self._secret_env}
        if unusable := [name for name, value in secrets.items() if not is_text(value)]:
            say(f"--secret-env {unusable[0]}: its value is not UTF-8, as commands are, so that none can have it")
            return OURS
        try:
            self._job_id = await self._jobs.start(
                *self._argv,
                request_id=self._request_id,
                stdin=self._has_stdin,
                separate_streams=self._separate,
                terminal=_terminal() if self._tty else None,
                output_max=self._output.most,
                output_full=self._output.full,
                secrets=secrets.values(),
                **given,
            )
        except LimitsIgnored as error:
            say(str(error))
            return OURS
        except RpcFailedError as error:
            say(words_of(error))
            if error.status.status_code is StatusCode.UNAVAILABLE:
                self._say_how_to_find_it()
            return _status_of_refusal(error)
        except TransportError as error:
            say(str(error))
            self._say_how_to_find_it()
            return OURS
        return DONE

    def _say_how_to_find_it(self) -> None:
        say(how_to_find(self._request_id))

    async def _follow(self) -> int:
        """Shows the output, and meanwhile asks for the end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._job_end.ask, self._job_id)
            status = await self._show()
            nursery.cancel_scope.cancel()
        return status

    async def _show(self) -> int:
        try:
            if not await despite_losses(self._copy):
                say(how_to_attach(self._job_id))
                return DONE
            record = await self._job_end.wait(self._job_id)
        except OutputFailed as failure:
            say(f"{failure}; the job {self._job_id} goes on")
            return OURS
        except RpcFailedError as error:
            say(f"{words_of(error)}; {self._what_it_does()}")
            return OURS
        except (TransportError, OutputIncomplete, InputLost) as error:
            say(f"{error}; {self._what_it_does()}")
            return OURS
        return self._end(record)

    async def _copy(self) -> bool:
        """Copies the output to stdout, and where the job has a stdin, standard input to that; False: the user has detached."""
        if self._mode is not None:
            from jobmaster.cli.terminal import use_terminal

            keys = self._detach_keys
            return await use_terminal(self._jobs, self._job_id, self._mode, offset=0, detach_keys=keys, is_new=True)
        if self._has_stdin or self._separate:
            await copy(self._jobs, self._job_id, 0, with_input=self._has_stdin, is_needed=self._needs_stdin)
            return True
        async with self._jobs.stream_output(self._job_id) as chunks:
            async for chunk in chunks:
                await trio.to_thread.run_sync(write_output, chunk, abandon_on_cancel=True)
        return True

    def _what_it_does(self) -> str:
        return f"what the job {self._job_id} does is not known here"

    def _end(self, record: pb.JobResponse) -> int:
        if not ended_by_itself(record):
            say(f"job {self._job_id}: {record.job_msg}")
        elif killed := killed_for_memory(record):
            say(killed)
        return exit_status(record)

    # --- interruptions --------------------------------------------------------------------------------------------

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop, await anext(signals), False)
            number = await anext(signals)
            if self._started.is_set():
                nursery.start_soon(self._stop, number, True)
                number = await anext(signals)
            self._leave(number)

    async def _stop(self, number: int, force: bool) -> None:  # start_soon takes positions
        name = signal.Signals(number).name
        if not self._started.is_set():
            say("the job will be stopped when it has started; once more to leave")
            await self._started.wait()
        if force:
            say(f"killing the job {self._job_id}; once more to leave it")
        else:
            say(f"stopping the job {self._job_id}; once more to kill it")
        try:
            await self._jobs.stop(self._job_id, f"{name} at the client", force=force)
        except RpcFailedError as error:
            say(f"the job {self._job_id} was not stopped: {error.status.status_message}")
        except TransportError as error:
            say(f"the job {self._job_id} was perhaps not stopped: {error}")

    def _leave(self, number: int) -> None:
        if self._mode is not None:
            self._mode.restore()
        if self._started.is_set():
            say(f"left; {self._how_it_is()}")
        else:
            self._say_how_to_find_it()
        os._exit(OF_SIGNAL + number)

    def _how_it_is(self) -> str:
        if (record := self._job_end.record) is not None:
            return f"job {self._job_id}: {record.job_msg}"
        return f"whether the job {self._job_id} has ended is not known here: `status {self._job_id}` tells"


@contextmanager
def _interruptions() -> Iterator[AsyncIterator[int] | None]:
    """Receives the signals that interrupt, but for those that are ignored, as in the background of a script."""
    heeded = [number for number in INTERRUPTIONS if signal.getsignal(number) is not signal.SIG_IGN]
    if heeded:
        with trio.open_signal_receiver(*heeded) as signals:
            yield signals
    else:
        yield None


def _terminal() -> pb.Terminal:
    from jobmaster.cli.terminal import terminal

    return terminal()


def _status_of_refusal(error: RpcFailedError) -> int:
    from jobmaster.grpc.status_details import reason_in  # here, because few starts are refused

    reason = reason_in(error.status)
    return REASONS.get(reason, OURS) if reason is not None else OURS
