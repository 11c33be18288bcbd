"""What a follower has to receive: every byte of numbered lines, once, and the last line."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.bench.lines import LENGTH, SCRIPT, Received
from tests.bench.load import WrongAnswer

WHOLE = b"".join(b"%015d\n" % number for number in range(40)) + b"end %011d\n" % 40


def received(*chunks: bytes) -> Received:
    """A follower of these chunks, a second each."""
    follower = Received()
    for at, chunk in enumerate(chunks):
        follower.take(chunk, float(at))
    return follower


@pytest.mark.parametrize("size", [1, 7, LENGTH, 100, len(WHOLE)])
def test_every_byte(size: int) -> None:
    """What was written is accepted in chunks of any size."""
    received(*(WHOLE[start : start + size] for start in range(0, len(WHOLE), size))).require_end()


@pytest.mark.parametrize("at", [0, 100, len(WHOLE) - LENGTH - 1, len(WHOLE) - LENGTH])
def test_wrong_bytes(at: int) -> None:
    """A byte that is lost, doubled or changed is found, wherever it is."""
    for wrong in (
        WHOLE[:at] + WHOLE[at + 1 :],
        WHOLE[: at + 1] + WHOLE[at:],
        WHOLE[:at] + b"?" + WHOLE[at + 1 :],
        WHOLE[:at] + WHOLE[max(0, at - 2 * LENGTH) :],
        WHOLE + WHOLE[at:],
    ):
        if wrong != WHOLE:
            with pytest.raises(WrongAnswer):
                received(wrong).require_end()


def test_missing_end() -> None:
    """An output that breaks off, between lines or within one, is not all of it."""
    for end in (0, LENGTH, 100, len(WHOLE) - LENGTH, len(WHOLE) - 1):
        with pytest.raises(WrongAnswer, match="broke off"):
            received(WHOLE[:end]).require_end()


def test_silence() -> None:
    """The longest silence is that since it was last begun, and one that lasts counts from its beginning."""
    follower = Received()
    assert follower.silence(9.0) == 0
    for at, number in ((1.0, 0), (6.0, 1), (7.0, 2)):
        follower.take(b"%015d\n" % number, at)
    assert follower.silence(8.0) == 5.0
    follower.begin_silence()
    assert follower.silence(8.0) == 1.0
    follower.take(b"%015d\n" % 3, 9.0)
    assert follower.silence(9.5) == 2.0


def test_script() -> None:
    """The script writes what is expected until SIGTERM, and then the last line."""
    follower = Received()
    with subprocess.Popen(["sh", "-c", SCRIPT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        follower.take(process.stdout.read(LENGTH), 0.0)
        process.send_signal(signal.SIGTERM)
        follower.take(process.stdout.read(), 1.0)
    assert process.returncode == 0
    follower.require_end()
