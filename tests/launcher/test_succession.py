"""When a server is followed by another one, and when its jobs are ended instead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobmaster.launcher.succession import CRASH_WINDOW, FIRST_PAUSE, LAST_PAUSE, MOST_GRACE, GiveUp, Next, Succession


def begun(*, max_gap: int = 300, max_crashes: int = 5) -> Succession:
    """One whose server is ready at 0."""
    succession = Succession()
    succession.on_ready(0, max_gap=max_gap, max_crashes=max_crashes)
    return succession


def test_a_crash_is_followed_at_once() -> None:
    """A server that was ready and died is followed without a pause."""
    assert begun().on_end(1, was_ready=True, handed_over=False) == Next(0)


def test_too_many_crashes() -> None:
    """The last one that is allowed within the window ends the jobs, and says by which option."""
    succession = begun(max_crashes=3)
    for at in (1, 2):
        assert succession.on_end(at, was_ready=True, handed_over=False) == Next(0)
        succession.on_ready(at, max_gap=300, max_crashes=3)
    decision = succession.on_end(3, was_ready=True, handed_over=False)
    assert isinstance(decision, GiveUp)
    assert "3 times" in decision.why
    assert "--max-crashes" in decision.why


def test_a_grace_period_without_a_server() -> None:
    """It is the server's own, and no longer than a service manager waits."""
    succession = begun()
    for told in (0, 3, 3000):
        succession.on_ready(0, max_gap=1, max_crashes=1, grace=told)
        assert succession.grace == min(told, MOST_GRACE)


def test_crashes_that_are_long_ago() -> None:
    """What is older than the window does not count."""
    succession = begun(max_crashes=2)
    at = 1.0
    for _ in range(5):
        assert succession.on_end(at, was_ready=True, handed_over=False) == Next(0)
        succession.on_ready(at, max_gap=300, max_crashes=2)
        at += CRASH_WINDOW


def test_no_crash_is_allowed() -> None:
    """A bound of one has the jobs end with the server."""
    assert isinstance(begun(max_crashes=1).on_end(1, was_ready=True, handed_over=False), GiveUp)


def test_starts_that_fail() -> None:
    """They are tried again after pauses that grow to a bound, and are no crashes; the time alone ends that."""
    succession = begun(max_gap=100, max_crashes=2)
    assert succession.on_end(1, was_ready=True, handed_over=False) == Next(0)
    now, pauses = 1.0, []
    while isinstance(decision := succession.on_end(now, was_ready=False, handed_over=False), Next):
        pauses.append(decision.pause)
        now += decision.pause
    assert pauses[0] == FIRST_PAUSE
    assert pauses[:7] == [FIRST_PAUSE * 2**n for n in range(7)]
    assert set(pauses[7:]) == {LAST_PAUSE}
    assert 100 <= now - 1 < 100 + LAST_PAUSE
    assert decision == GiveUp("no server has been ready for 100 s (--max-gap)")


def test_pauses_begin_anew() -> None:
    """After a server that was ready the first pause is the short one again."""
    succession = begun()
    for at in (1, 2, 3):
        succession.on_end(at, was_ready=at == 1, handed_over=False)
    succession.on_ready(4, max_gap=300, max_crashes=5)
    succession.on_end(5, was_ready=True, handed_over=False)
    assert succession.on_end(6, was_ready=False, handed_over=False) == Next(FIRST_PAUSE)


def test_hand_overs() -> None:
    """They are no crashes, and each is followed at once: however many there are, and how quickly they follow each other."""
    succession = begun(max_crashes=1)
    for at in (*range(0, 1000, 100), *[2000] * 100):
        succession.on_ready(at, max_gap=300, max_crashes=1)
        assert succession.on_end(at, was_ready=True, handed_over=True) == Next(0)


def test_a_start_that_fails_after_a_hand_over() -> None:
    """It is tried again after the short pause, whatever starts have failed before."""
    succession = begun()
    for at in (1, 2, 3):
        succession.on_end(at, was_ready=False, handed_over=False)
    succession.on_ready(4, max_gap=300, max_crashes=5)
    assert succession.on_end(5, was_ready=True, handed_over=True) == Next(0)
    assert succession.on_end(6, was_ready=False, handed_over=False) == Next(FIRST_PAUSE)


def test_the_gap_is_between_servers_that_are_ready() -> None:
    """It begins with the end of the last one, or before that when it serves no more, and ends when another is ready."""
    succession = begun(max_gap=10)
    assert not succession.is_gap_too_long(1000)
    assert succession.on_silence(1000) == 1010
    succession.on_end(1005, was_ready=True, handed_over=False)
    succession.on_end(1008, was_ready=False, handed_over=False)
    assert succession.on_silence(1009) == 1010
    assert not succession.is_gap_too_long(1009.9)
    assert succession.is_gap_too_long(1010)
    succession.on_ready(1010, max_gap=10, max_crashes=5)
    assert not succession.is_gap_too_long(5000)


def test_a_server_that_was_to_end_the_jobs() -> None:
    """If it dies it is followed, even if it was failing already; if one started for that fails, that is the end."""
    succession = begun()
    succession.is_stopping = True
    assert succession.on_end(1, was_ready=True, handed_over=False) == Next(0)
    assert succession.on_end(2, was_ready=False, handed_over=False) == Next(0)
    assert isinstance(succession.on_end(3, was_ready=False, handed_over=False, was_to_stop=True), GiveUp)


@given(
    st.lists(st.tuples(st.floats(0.001, 400), st.booleans(), st.booleans()), max_size=100),
    st.integers(1, 20),
)
def test_it_always_comes_to_an_end(ends: list[tuple[float, bool, bool]], max_crashes: int) -> None:
    """No more crashes than allowed within any window, and no gap that is longer than allowed, are followed."""
    succession, now = begun(max_crashes=max_crashes), 0.0
    followed: list[float] = []
    for seconds, is_ready, handed_over in ends:
        if is_ready:
            succession.on_ready(now, max_gap=300, max_crashes=max_crashes)
        now += seconds
        gap = succession.gap_since
        match succession.on_end(now, was_ready=is_ready, handed_over=handed_over):
            case GiveUp():
                return
            case Next(pause=pause):
                assert 0 <= pause <= LAST_PAUSE
        if is_ready and not handed_over:
            followed.append(now)
        assert len([at for at in followed if at > now - CRASH_WINDOW]) < max_crashes
        assert is_ready or gap is None or now - gap < 300


def test_a_suspension_in_a_gap() -> None:
    """Time in which nothing ran is none without a server; where there is one, it changes nothing."""
    succession = begun(max_gap=10)
    succession.on_suspended(1000)
    assert succession.on_silence(1000) == 1010
    succession.on_suspended(500)
    assert succession.on_silence(1501) == 1510
    assert not succession.is_gap_too_long(1509)
    assert succession.is_gap_too_long(1510)
