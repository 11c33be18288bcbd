"""An attachment to a job: its output, and its input, over as many calls as it takes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Self

import trio

from jobmaster.client.calls import Calls, Stream
from jobmaster.client.resumption import OutputIncomplete
from jobmaster.client.unacknowledged import Unacknowledged
from jobmaster.errors import TransportError
from jobmaster.grpc.purerpc_adapter import RpcFailedError, StatusCode
from jobmaster.jobs.v1 import jobs_pb2 as pb


class Attachment:
    """Iterate it for the output. One task does that, and one may `send` meanwhile, which needs the other.

    Each byte of the output comes once, and each of the input arrives once, whatever becomes of connection and server.

    Attributes:
        received: the offset of the next byte of the output.
        admitted: set when a server has said that it takes this client's input, or that the job takes none.
    """

    def __init__(
        self,
        calls: Calls,
        job_id: str,
        patience: float,
        *,
        output_offset: int,
        with_input: bool,
        window: pb.WindowSize | None = None,
    ) -> None:
        """Makes no call yet."""
        self.received = output_offset
        self.admitted = trio.Event()
        self._job_id = job_id
        self._writer = secrets.token_hex(16) if with_input else ""
        self._input = Unacknowledged()
        self._window = window
        self._is_window_told = True
        self._change = trio.lowlevel.ParkingLot()
        """The input may go on: there is space, something to send, or a call that takes it."""
        self._calls_begun = 0
        self._stream = Stream(calls, "Attach", pb.AttachRequest, pb.AttachResponse, patience, sends_more=True)

    # --- output ---------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.OutputChunk:
        """The next bytes of the output, or the next gap in it.

        Raises:
            RpcFailedError: the server refused; UNAVAILABLE, which may pass, only when patience is over.
            TransportError: no connection was to be had in all that time.
            OutputIncomplete: the server that answers now does not know the job any more.
            InputLost: what it has of the input is not what was sent.
        """
        while (message := await self._receive()) is not None:
            self._stream.patience.progress()
            match message.WhichOneof("kind"):
                case "output":
                    chunk = message.output
                    self.received = chunk.offset + len(chunk.data) + chunk.gap.length
                    return chunk
                case "input":
                    self._on_input(message.input)
        self._end_input()
        raise StopAsyncIteration

    async def _receive(self) -> pb.AttachResponse | None:
        try:
            message = await self._stream.receive(self._request)
        except RpcFailedError as error:
            if error.status.status_code is StatusCode.NOT_FOUND and self._calls_begun > 1:
                raise OutputIncomplete(
                    "the server does not know the job any more (it has forgotten the job, or is another server): its "
                    f"output ends here, after byte {self.received}, as far as anybody can tell"
                ) from error
            raise
        assert message is None or isinstance(message, pb.AttachResponse)  # noqa: S101  # for the type checker
        return message

    def _request(self) -> pb.AttachRequest:
        self._calls_begun += 1
        self._input.call_begins()
        self._is_window_told = True
        start = pb.AttachStart(
            job_id=pb.JobID(job_id=self._job_id),
            output_offset=self.received,
            writer=self._writer,
            window=self._window,
        )
        return pb.AttachRequest(start=start)

    def abandon(self) -> None:
        """Ends the call that is open, if any; the job and its input stay as they are."""
        self._stream.abandon()
        self._end_input()

    # --- input ----------------------------------------------------------------------------------------------------

    def _on_input(self, state: pb.InputState) -> None:
        self.admitted.set()
        if state.status == pb.INPUTSTATUS_NOT_READ:
            self._end_input()
            return
        self._input.acknowledge(state.offset)
        if state.status == pb.INPUTSTATUS_ENDED:
            self._input.close()
        self._change.unpark_all()

    def _end_input(self) -> None:
        self._input.close()
        self._change.unpark_all()

    def resize(self, window: pb.WindowSize) -> None:
        """Gives the job's terminal this size; told while this `send`s, or with the next call."""
        self._window = window
        self._is_window_told = False
        self._change.unpark_all()

    async def send(self, source: AsyncIterator[bytes], *, ends: bool = True) -> bool:
        """Sends what comes from there; returns whether the server has all of it: else the job took no more.

        Args:
            source: of the bytes.
            ends: the job reads end-of-file behind them; else its input stays open for others.

        Raises:
            Exception: what `source` raises.
        """
        failure: Exception | None = None

        async def read() -> None:
            nonlocal failure
            try:
                await self._put_all(source, ends=ends)
            except Exception as error:  # noqa: BLE001  # raised below, and not in a group
                failure = error
                self._end_input()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await self._send_all()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return self._input.is_complete

    async def _put_all(self, source: AsyncIterator[bytes], *, ends: bool) -> None:
        async for data in source:
            while not self._input.has_space and not self._input.is_done:
                await self._change.park()
            if self._input.is_done:  # the source may have no end, and never yield
                await _close(source)
                return
            self._input.put(data)
            self._change.unpark_all()
        self._input.put_end(closes=ends)
        self._change.unpark_all()

    async def _send_all(self) -> None:
        while not self._input.is_done:
            call = self._stream.call
            message = self._next_message(call.send_window) if call is not None else None
            if call is None or message is None:
                await self._change.park()
                continue
            try:
                await call.send_message(message)
            except (TransportError, RpcFailedError):
                await self._change.park()  # who receives meets it too, and makes a new call

    def _next_message(self, send_window: int) -> pb.AttachRequest | None:
        """What is to be sent next in the call that is open, whose server takes so much now; None where there is nothing."""
        if self._input.may_send and not self._is_window_told:
            self._is_window_told = True
            return pb.AttachRequest(window=self._window)
        piece = self._input.take(send_window)
        if piece is None:
            return None
        message = pb.AttachRequest()  # filled in place: a submessage that is given is copied, and its data once more
        message.input.offset = piece.offset
        message.input.data = piece.data
        message.input.end = piece.ends
        return message


async def _close(source: AsyncIterator[bytes]) -> None:
    """Closes what nothing more is asked of, where it is a generator."""
    if isinstance(source, AsyncGenerator):
        await source.aclose()
