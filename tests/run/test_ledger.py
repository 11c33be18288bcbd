"""What outputs take of the disk, and whose goes first."""

from __future__ import annotations

from jobmaster.job.identifier import JobId
from jobmaster.run.ledger import Ledger, Victim

A, B, C, D, E = (JobId(letter) for letter in "abcde")


def ledger_of(*ended: tuple[JobId, str, int]) -> Ledger:
    """One of ended jobs, in this order."""
    ledger = Ledger()
    ledger.note_earlier(Victim(*each) for each in ended)
    return ledger


def test_the_client_that_takes_most_loses_first() -> None:
    """At each step it is that client's oldest, until what is left has room; another's small ones stay."""
    ledger = ledger_of((A, "small", 10), (B, "large", 50), (C, "large", 30), (D, "middle", 40), (E, "large", 5))
    assert [victim.job_id for victim in ledger.choose(1, 10).victims] == [B]
    assert [victim.job_id for victim in ledger.choose(51, 10).victims] == [B, D]
    assert [victim.job_id for victim in ledger.choose(91, 10).victims] == [B, D, C]
    assert [victim.job_id for victim in ledger.choose(1000, 10).victims] == [B, D, C, A, E]
    assert len(ledger.choose(1000, 2).victims) == 2
    assert ledger.choose(0, 10).victims == ()


def test_what_runs_counts_and_stays() -> None:
    """A running job's output makes its client the one that takes most, and is never to go."""
    ledger = ledger_of((A, "one", 10), (B, "other", 20))
    ledger.note_running(C, "one")
    ledger.note_size(C, 100)
    assert ledger.total == 130
    assert [victim.job_id for victim in ledger.choose(1000, 10).victims] == [A, B]
    assert ledger.choose(1000, 10).stuck == ("one",)
    assert ledger.choose(5, 10).stuck == ()
    assert ledger.choose(15, 10).stuck == ("one",), "another gives in its stead"
    ledger.note_running(D, "little")
    ledger.note_size(D, 1)
    assert ledger.choose(1000, 10).stuck == ("one",), "nobody gives in the stead of who takes least"
    ledger.forget(A)
    ledger.forget(B)
    assert ledger.choose(1000, 10).stuck == ("one",)
    ledger.note_ended(C, "one")
    assert [victim.job_id for victim in ledger.choose(1000, 10).victims] == [C]


def test_an_ended_output_is_measured_once_more() -> None:
    """What a job wrote last counts; one that takes nothing is in no list."""
    ledger = ledger_of()
    for job_id in (A, B):
        ledger.note_running(job_id, "one")
        ledger.note_size(job_id, 10)
        ledger.note_ended(job_id, "one")
    assert (ledger.unmeasured, ledger.total) == ((A, B), 20)
    ledger.note_size(A, 15)
    ledger.note_size(B, 0)
    assert (ledger.unmeasured, ledger.total) == ((), 15)
    assert ledger.choose(1000, 10).victims == (Victim(A, "one", 15),)


def test_what_is_forgotten_does_not_count() -> None:
    """Nor what is measured of it, or found of an earlier server's, a moment too late."""
    ledger = Ledger()
    ledger.note_running(A, "one")
    ledger.note_size(A, 10)
    ledger.note_ended(B, "one")
    for job_id in (A, B, C):
        ledger.forget(job_id)
    for job_id in (A, B):
        ledger.note_size(job_id, 20)
    ledger.note_earlier([Victim(C, "one", 10)])
    assert (ledger.total, ledger.unmeasured, ledger.choose(1000, 10).victims) == (0, (), ())


def test_what_an_earlier_server_left_goes_first() -> None:
    """Jobs that have ended since are younger, however late the others are found; none counts twice."""
    ledger = Ledger()
    ledger.note_ended(B, "one")
    ledger.note_size(B, 10)
    ledger.note_earlier([Victim(A, "one", 5), Victim(B, "one", 10)])
    assert ledger.total == 15
    assert [victim.job_id for victim in ledger.choose(1000, 10).victims] == [A, B]


def test_one_that_is_found_before_its_end_is_told() -> None:
    """It counts once, as large as it was found to be."""
    ledger = Ledger()
    ledger.note_running(A, "one")
    ledger.note_size(A, 10)
    ledger.note_earlier([Victim(A, "one", 15)])
    ledger.note_ended(A, "one")
    assert (ledger.total, ledger.unmeasured) == (15, ())
    assert ledger.choose(1, 10).victims == (Victim(A, "one", 15),)
