"""Attach: a job's input and output in one call.

Two tasks share the call, one for each direction. The one that receives waits while the job takes no input, and the
client's flow-control window with it; the one that sends output waits while the client takes none. Neither waits for the
other: how far the input has come is told at once where nothing is in the way, and else by a third task, between two
messages of the output. Of states that could not be told, the last one replaces those before it. The end of the output is
the end of the call.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, assert_never

import trio

from jobmaster.api.following import Told
from jobmaster.api.messages import attach_gap, attach_messages, window_of
from jobmaster.api.requests import MAX_WRITER
from jobmaster.errors import InputClosed, InputRefused, InvalidRequest, OutputUnreadable
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.reading import FromOffset, GapPiece, Piece, Position, Selection
from jobmaster.run.ended_jobs import EndedJob
from jobmaster.run.terminal import TerminalInput

if TYPE_CHECKING:
    from jobmaster.api.followers import Followers
    from jobmaster.grpc.lazy_messages import StoredMessages
    from jobmaster.grpc.server_call import ServerCall
    from jobmaster.identity.policy import Identity
    from jobmaster.run.registry import Job, Registry
    from jobmaster.run.stdin import Stdin

TOLD_BYTES: Final = 512 * 1024
"""Bytes of input that a client that sends without a pause is told of together."""
MESSAGES_IN_A_ROW: Final = 32
"""Messages that are taken before other tasks run: a flow-control window holds a hundred thousand small ones."""
_ENDED: Final = pb.InputState(status=pb.INPUTSTATUS_NOT_READ)


async def attach(call: ServerCall, caller: Identity, registry: Registry, followers: Followers) -> None:
    """Serves one call to its end.

    Raises:
        InvalidRequest, InputRefused: it asks for what cannot be; nothing was taken.
        JobmasterError: as `Registry.find`.
        OutputUnreadable: the output cannot be read.
    """
    start = await _start_of(call)
    job = await registry.find(caller, start.job_id.job_id)
    stdin = _stdin_of(job) if start.writer else None
    with followers.counted(caller.name):
        attachment = _Attachment(call, job, start)
        try:
            await attachment.run(stdin)
        except OutputUnreadable:
            await registry.find(caller, start.job_id.job_id)  # noqa: ASYNC120  # a call that is cancelled has no answer
            raise


async def _start_of(call: ServerCall) -> pb.AttachStart:
    message = await call.receive_message()
    if not isinstance(message, pb.AttachRequest) or message.WhichOneof("kind") != "start":
        raise InvalidRequest("the first message names the job: send a start", field="start")
    if len(message.start.writer) > MAX_WRITER:
        raise InvalidRequest(f"writer has more than {MAX_WRITER} characters", field="start.writer")
    if message.start.HasField("window"):
        window_of(message.start.window)
        if not message.start.writer:
            raise InvalidRequest("the window is that of the writer: name one", field="start.window")
    return message.start


def _stdin_of(job: Job) -> Stdin | None:
    """The input of a job; None for one that has ended."""
    if isinstance(job, EndedJob):
        return None
    if job.stdin is None:
        raise InputRefused("the job has no stdin: it was not started with one")
    return job.stdin


class _Attachment:
    """One call, once its start has been read."""

    def __init__(self, call: ServerCall, job: Job, start: pb.AttachStart) -> None:
        self._call = call
        self._job = job
        self._start = start
        self._turn = trio.Lock()
        self._told = -1
        self._untold: pb.AttachResponse | None = None
        self._has_untold = trio.Event()
        self._failure: Exception | None = None

    async def run(self, stdin: Stdin | None) -> None:
        """Serves both directions until the output has ended, or one of them fails."""
        async with trio.open_nursery() as nursery:
            if stdin is not None:
                nursery.start_soon(self._guard, lambda: self._receive(stdin), nursery.cancel_scope)
                nursery.start_soon(self._guard, self._keep_telling, nursery.cancel_scope)
            else:
                self._call.ignore_requests()  # what is not read holds the connection's window
                if self._start.writer:
                    await self._send(pb.AttachResponse(input=_ENDED))
            await self._guard(self._send_output, nursery.cancel_scope)
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _guard(self, task: Callable[[], Awaitable[None]], call: trio.CancelScope) -> None:
        """Runs a task whose error ends the call, and is the call's alone, not in a group."""
        try:
            await task()
        except Exception as error:  # noqa: BLE001  # raised by `run`
            self._failure = self._failure or error
            call.cancel()

    # --- input ----------------------------------------------------------------------------------------------------

    async def _receive(self, stdin: Stdin) -> None:
        with (
            stdin.written_by(self._start.writer) as scope,
            self._call.window_apart() as grant,
            stdin.wide_by(grant),
        ):
            if self._start.HasField("window"):
                _resize(stdin, self._start.window)
            self._tell(stdin)
            taken = 0
            try:
                while (message := await self._call.receive_message(seconds=math.inf)) is not None:
                    await self._take(stdin, message)
                    taken += 1
                    if taken % MESSAGES_IN_A_ROW == 0:
                        await trio.lowlevel.checkpoint()
            except InputClosed:
                self._tell(stdin)
        if scope.cancelled_caught:
            raise InputRefused("the same writer has attached anew")
        self._call.ignore_requests()

    async def _take(self, stdin: Stdin, message: object) -> None:
        kind = message.WhichOneof("kind") if isinstance(message, pb.AttachRequest) else None
        if not isinstance(message, pb.AttachRequest) or kind not in {"input", "window"}:
            raise InvalidRequest("after the start come messages of input and of the window only", field="input")
        if kind == "window":
            _resize(stdin, message.window)
            return
        piece = message.input
        await stdin.write(piece.offset, piece.data)
        if piece.end:
            stdin.end(piece.offset + len(piece.data))
        if piece.end or not self._call.receiver.queued_messages or stdin.accepted - self._told >= TOLD_BYTES:
            self._tell(stdin)

    def _tell(self, stdin: Stdin) -> None:
        """Tells the client how far its input has come: now, or as soon as it takes it."""
        self._told = stdin.accepted
        state = pb.InputState(offset=stdin.accepted, status=_status_of(stdin))
        self._untold = pb.AttachResponse(input=state)
        if not self._turn.locked() and self._call.send_now(self._untold.SerializeToString()):
            self._untold = None
        else:
            self._has_untold.set()

    async def _keep_telling(self) -> None:
        while True:
            await self._has_untold.wait()
            self._has_untold = trio.Event()
            await self._send_untold()

    async def _send_untold(self) -> None:
        async with self._turn:
            message, self._untold = self._untold, None
            if message is not None:
                await self._call.send_message(message)

    # --- output ---------------------------------------------------------------------------------------------------

    async def _send_output(self) -> None:
        selection = Selection(start=FromOffset(self._start.output_offset))
        told = Told()
        async with aclosing(self._job.output.read(selection)) as pieces:
            async for piece in pieces:
                told.add(piece)
                match piece:
                    case Piece(stream=stream, stretch=stretch):
                        await self._send(attach_messages(stretch, stretch.offset, stream))
                    case GapPiece():
                        await self._send(attach_gap(piece))
                    case Position():
                        pass  # where it begins was named
                    case unreachable:
                        assert_never(unreachable)
        await self._job.wait_ended()
        await self._send_untold()
        await told.check(self._job.output, self._start.output_offset)

    async def _send(self, message: pb.AttachResponse | StoredMessages) -> None:
        async with self._turn:
            await self._call.send_message(message)


def _resize(stdin: Stdin, window: pb.WindowSize) -> None:
    if not isinstance(stdin, TerminalInput):
        raise InputRefused("the job has no terminal, and so no window: it was not started with one")
    stdin.resize(window_of(window))


def _status_of(stdin: Stdin) -> pb.InputStatus:
    if stdin.has_ended:
        return pb.INPUTSTATUS_ENDED
    return pb.INPUTSTATUS_OPEN if stdin.is_read else pb.INPUTSTATUS_NOT_READ
