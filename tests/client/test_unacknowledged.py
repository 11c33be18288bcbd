"""What of an input a client keeps, and sends again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.client.unacknowledged import MOST_KEPT, PIECE_SIZE, InputLost, Piece, Unacknowledged


def begun(offset: int = 0) -> Unacknowledged:
    """An input whose first server has so many bytes of others."""
    kept = Unacknowledged()
    kept.call_begins()
    kept.acknowledge(offset)
    return kept


def test_nothing_is_sent_before_the_server_has_told() -> None:
    """Where this client's input begins is the server's to say."""
    kept = Unacknowledged()
    kept.put(b"abc")
    kept.call_begins()
    assert kept.take() is None
    kept.acknowledge(7)
    assert kept.take() == Piece(7, b"abc", ends=False)
    assert kept.take() is None


def test_the_end_goes_with_the_last_bytes_or_alone() -> None:
    """It is sent once in a call, and the input is done when the server says so."""
    kept = begun()
    kept.put(b"abc")
    assert kept.take() == Piece(0, b"abc", ends=False)
    kept.put_end(closes=True)
    assert kept.take() == Piece(3, b"", ends=True)
    assert kept.take() is None
    kept.call_begins()
    kept.acknowledge(1)
    assert kept.take() == Piece(1, b"bc", ends=True)
    kept.acknowledge(3)
    assert (kept.is_complete, kept.is_done, kept.take()) == (True, False, None)
    kept.close()
    assert kept.is_done


def test_an_input_that_stays_open() -> None:
    """Where others may go on, it is done when the server has the last byte."""
    kept = begun()
    kept.put(b"abc")
    kept.put_end(closes=False)
    assert kept.take() == Piece(0, b"abc", ends=False)
    kept.acknowledge(2)
    assert not kept.is_done
    kept.acknowledge(3)
    assert kept.is_done


def test_no_more_is_kept_than_may_be() -> None:
    """There is space again when the server has some of it."""
    kept = begun()
    kept.put(bytes(MOST_KEPT))
    assert not kept.has_space
    kept.acknowledge(1)
    assert kept.has_space


@pytest.mark.parametrize("offset", [4, 14])
def test_another_input(offset: int) -> None:
    """A server that has less than it had, or more than it was sent, has something else: nothing is sent to it."""
    kept = begun(5)
    kept.put(b"12345678")
    with pytest.raises(InputLost):
        kept.acknowledge(offset)


class Servers:
    """What servers, each of which goes on where the one before was killed, take of the pieces that they are sent."""

    def __init__(self) -> None:
        self.taken = b""
        self.has_end = False

    def take(self, piece: Piece) -> None:
        """As `Stdin.write` and `Stdin.end`."""
        assert piece.offset <= len(self.taken)
        self.taken += piece.data[len(self.taken) - piece.offset :]
        if piece.ends:
            self.has_end = True


@given(st.lists(st.sampled_from(["put", "take", "lose", "tell", "break"]), max_size=60))
def test_each_byte_once(steps: list[str]) -> None:
    """Whatever is lost on the way, and whenever a call breaks, the servers have each byte once and in order."""
    kept, servers, source = begun(), Servers(), b""
    for number, step in enumerate([*steps, "break", "take", "tell"]):
        match step:
            case "put" if kept.has_space:
                data = bytes([number % 251]) * (number * 1_009 % (2 * PIECE_SIZE))
                source += data
                kept.put(data)
            case "take":
                while (piece := kept.take()) is not None:
                    servers.take(piece)
            case "lose":  # a piece, and all that would come after it in this call
                while kept.take() is not None:
                    pass
                kept.call_begins()
                kept.acknowledge(len(servers.taken))
            case "tell":
                kept.acknowledge(len(servers.taken))
            case "break":
                kept.call_begins()
                kept.acknowledge(len(servers.taken))
            case _:
                pass
    assert servers.taken == source
    kept.put_end(closes=True)
    while (piece := kept.take()) is not None:
        servers.take(piece)
    assert servers.has_end
