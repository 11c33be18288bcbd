"""A state machine over a log on a real file: whatever fails and whenever the server dies, every byte is accounted for."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jobmaster.output import index_file, log, transfer
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.log import RETRY_SECONDS, OutputLog
from jobmaster.output.survey import survey
from jobmaster.output.transfer import Transfer
from tests.output.stretches import bytes_of

CALLS = ("splice", "pwrite", "ftruncate", "fdatasync", "open")
ERRNOS = st.sampled_from([errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
COUNTS = st.integers(1, 2000)
PASSED = st.sampled_from([0.0, 0.02, 0.2, RETRY_SECONDS, 5.0])
FAILING: st.SearchStrategy[dict[str, int]] = (
    st.just({}) | st.just(dict.fromkeys(CALLS[:2], errno.ENOSPC)) | st.dictionaries(st.sampled_from(CALLS), ERRNOS)
)


class Died(BaseException):
    """The server, at a call of the kernel."""


class Kernel:
    """Stands in for os: one of its next calls fails, or is the server's last."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.dies_in: int | None = None
        self.takes_half = False
        self.writes_all_the_same = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._call(name, real) if name in CALLS else real

    def _call(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if self.dies_in is not None:
                if self.dies_in == 0:
                    if name == "pwrite" and self.takes_half:
                        real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], arguments[2])
                    raise Died
                self.dies_in -= 1
            if name in self.failing and not (self.failing[name] == errno.ENOSPC and is_overwriting(name, arguments)):
                if name == "pwrite" and self.writes_all_the_same:
                    real(*arguments, **keywords)
                raise OSError(self.failing[name], os.strerror(self.failing[name]))
            return real(*arguments, **keywords)

        return call


def is_overwriting(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether this needs no more space: it writes over what was written, or makes a hole."""
    if name == "ftruncate":
        return True
    return name == "pwrite" and arguments[2] + len(arguments[1]) <= os.fstat(arguments[0]).st_size


class LogMachine(RuleBasedStateMachine):
    """A job writes, its log keeps what it can."""

    @initialize()
    def begin(self) -> None:
        """A job starts."""
        self.folder = Path(tempfile.mkdtemp())
        self.kernel = Kernel()
        self.patch = pytest.MonkeyPatch()
        self.clock = 1_790_000_000.0
        self._stand_in()
        self.log = OutputLog(self.folder / "job.log")
        self.written = b""
        self.recorded = 0
        self.told_end = 0
        """The end of the output as far as a server that is killed leaves word of it."""
        self.splice = True

    def _stand_in(self) -> None:
        for module in (log, transfer, index_file):
            self.patch.setattr(module, "os", self.kernel)
        self.patch.setattr(trio, "current_time", lambda: self.clock)
        self.patch.setattr(transfer, "now", lambda: int(self.clock * 1_000_000))
        self.patch.setattr(log, "now", lambda: int(self.clock * 1_000_000))

    def teardown(self) -> None:
        """Removes all."""
        if hasattr(self, "patch"):
            self.patch.undo()
            self.log.close()
            shutil.rmtree(self.folder)

    @rule(count=COUNTS, stream=st.sampled_from(Stream), passed=PASSED, failing=FAILING, is_late=st.booleans())
    def the_job_writes(
        self, count: int, stream: Stream, passed: float, failing: dict[str, int], is_late: bool = False
    ) -> None:
        """And its output is moved, as far as the disk lets it; a write may be an error of which the bytes are there."""
        self.clock += passed
        self.kernel.failing = failing
        self.kernel.writes_all_the_same = is_late and "ftruncate" not in failing
        read_end, write_end = self._write(count)
        moved = Transfer(read_end, stream, self.log, self.log.plan(), splice=self.splice).run(count)
        os.close(read_end)
        os.close(write_end)
        assert moved.taken == count
        self.log.record(moved)
        takes_no_space = all(number == errno.ENOSPC for number in failing.values())
        if self.log.gap is None or (takes_no_space and self.log.index is not None):
            self.told_end = self.log.end

    @rule(count=COUNTS, calls=st.integers(0, 9), takes_half=st.booleans(), behind_gap=st.booleans())
    def the_server_dies(self, count: int, calls: int, takes_half: bool, behind_gap: bool) -> None:
        """In the middle of a move; the next one finds the rest in the pipe, and the bytes that were moved in the file."""
        if behind_gap:
            self.the_job_writes(count, Stream.BOTH, 0.0, {"splice": errno.EIO, "pwrite": errno.EIO})
            self.clock += RETRY_SECONDS
        self.kernel.failing = {}
        read_end, write_end = self._write(count)
        self.kernel.dies_in, self.kernel.takes_half = calls, takes_half
        before, had_gap = self.log.end, self.log.gap is not None or self.log.room.why_full is not None
        try:
            moved = Transfer(read_end, Stream.BOTH, self.log, self.log.plan(), splice=True).run(count)
            self.log.record(moved)
        except Died:
            pass
        self.kernel.dies_in = None
        left = len(self._rest(read_end))
        os.close(write_end)
        self._go_on_anew()
        # What was taken from the pipe and neither kept nor recorded as lost, nobody knows of any more.
        unknown = max(0, before + count - left - self.log.end)
        assert unknown == 0 or had_gap, "splice leaves no byte in between"
        assert unknown <= max(count, before + count - self.told_end), "what was told before is known"
        self.written = self.written[: before + count - left - unknown]
        self.told_end = self.log.end

    @rule(why=st.sampled_from([None, "all outputs take too much"]))
    def there_is_room_or_not(self, why: str | None) -> None:
        """For the outputs of all jobs."""
        self.log.room.why_full = why

    @rule()
    def losses_are_recorded(self) -> None:
        """As they are from time to time."""
        self.recorded = self.log.lost

    @rule()
    def the_server_is_replaced(self) -> None:
        """By one that goes on; what was lost is recorded."""
        self.recorded, self.told_end = self.log.lost, self.log.end
        self.log.close()
        self._go_on_anew()

    @invariant()
    def every_byte_is_accounted_for(self) -> None:
        """Kept and lost are what was written."""
        if hasattr(self, "log"):
            assert self.log.kept + self.log.lost == self.log.end == len(self.written)

    @invariant()
    def what_is_kept_is_true(self) -> None:
        """Every byte of the file is at its offset, and gaps are told as such."""
        if hasattr(self, "log"):
            assert self._told() == self._in_file()
            assert self.log.kept == self._in_file().count(True)

    @precondition(lambda self: self.log.size > 0)
    @rule()
    def the_log_is_read(self) -> None:
        """By a follower of the job, and by one of the ended job."""
        expected = bytes(byte for byte, is_kept in zip(self.written, self._told(), strict=False) if is_kept)
        self.patch.undo()
        self.log.sealed = True
        assert trio.run(self._read, self.log) == expected
        assert trio.run(self._read, self.log.stored()) == expected
        assert survey(self.log.path).kept == self.log.kept
        self.log.sealed = False
        self._stand_in()

    async def _read(self, output: Any) -> bytes:
        return b"".join([await bytes_of(stretch) async for stretch in output.follow()])

    def _write(self, count: int) -> tuple[int, int]:
        start = len(self.written)
        data = bytes((start + place) % 251 + 1 for place in range(count))
        self.written += data
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.write(write_end, data)
        return read_end, write_end

    def _rest(self, read_end: int) -> bytes:
        rest = b""
        with suppress(BlockingIOError):
            rest = os.read(read_end, 1 << 20)
        os.close(read_end)
        return rest

    def _go_on_anew(self) -> None:
        failing, self.kernel.failing = self.kernel.failing, {}
        self.log.close()
        self.log = OutputLog.reopen(self.log.path, lost=self.recorded)
        self.kernel.failing = failing

    def _told(self) -> list[bool]:
        told: list[bool] = []
        index = self.log.index
        if index is None:
            return [True] * self.log.size
        for run in index.view.runs(0):
            end = self.log.size if run.end is None else min(run.end, self.log.size)
            told += [not isinstance(run.what, GapReason)] * max(0, end - len(told))
            if end == self.log.size:
                break
        return told

    def _in_file(self) -> list[bool]:
        data = self.log.path.read_bytes()[: self.log.size]
        there = [byte != 0 for byte in data]
        assert all(data[place] == self.written[place] for place in range(len(data)) if data[place])
        return there


TestLog = LogMachine.TestCase
TestLog.settings = settings(
    deadline=None, max_examples=int(os.environ.get("LOG_EXAMPLES", "60")), stateful_step_count=25
)


def test_a_gap_that_was_nearly_closed_twice() -> None:
    """A server that dies as it closes a gap leaves none that ends where an earlier try, which failed, would have ended it."""
    state = LogMachine()
    state.begin()
    state.the_job_writes(1, Stream.BOTH, 0.0, {})
    state.there_is_room_or_not("all outputs take too much")
    state.the_job_writes(1, Stream.BOTH, 0.0, {})
    state.there_is_room_or_not(None)
    state.the_job_writes(1, Stream.BOTH, 0.0, {"splice": errno.ENOSPC, "pwrite": errno.ENOSPC}, is_late=True)
    state.the_server_dies(count=1, calls=1, takes_half=False, behind_gap=True)
    state.every_byte_is_accounted_for()
    state.what_is_kept_is_true()
    state.teardown()
