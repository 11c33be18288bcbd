"""Job ids against the published KSUIDs of segmentio/ksuid."""

from __future__ import annotations

import secrets
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.job.identifier import encode, new_job_id, parse_job_id

seconds = st.integers(min_value=0, max_value=2**32 - 1)
payloads = st.binary(min_size=16, max_size=16)


@pytest.mark.parametrize(
    ("moment", "payload", "text"),
    [
        (0, "00" * 16, "000000000000000000000000000"),
        (2**32 - 1, "ff" * 16, "aWgEPTl1tmebfsQzFP4bxwgy80V"),
        (107_608_047, "B5A1CD34B5F99D1154FB6853345C9735", "0ujtsYcgvSTl8PAuAdqWYSMnLOv"),
    ],
)
def test_published_examples(moment: int, payload: str, text: str) -> None:
    """The smallest, the largest and the documented KSUID come out as published."""
    assert encode(moment, bytes.fromhex(payload)) == text


def test_the_last_second() -> None:
    """A time after the last one that a KSUID can tell is an error, and no id of another time."""
    with pytest.raises(OverflowError):
        encode(2**32, bytes(16))


def test_a_new_id_has_the_time_and_the_random_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new id is the KSUID of this second and 128 fresh bits: with those of the documented one, it is that one."""
    payload = bytes.fromhex("B5A1CD34B5F99D1154FB6853345C9735")
    monkeypatch.setattr(time, "time", lambda: 1_507_608_047.9)  # 2017-10-10T04:00:47Z
    monkeypatch.setattr(secrets, "token_bytes", lambda count: (payload * 2)[:count])
    assert new_job_id() == "0ujtsYcgvSTl8PAuAdqWYSMnLOv"


@pytest.mark.parametrize(("now", "moment"), [(0.0, 0), (1_399_999_999.0, 0), (5_694_967_296.0, 2**32 - 1)])
def test_a_clock_that_is_wrong(monkeypatch: pytest.MonkeyPatch, now: float, moment: int) -> None:
    """A host whose clock starts in 1970, or is set beyond the last second of KSUIDs, makes ids all the same."""
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(secrets, "token_bytes", bytes)
    assert new_job_id() == encode(moment, bytes(16))


def test_new_ids_differ() -> None:
    """Ids made within one second are not the same."""
    assert len({new_job_id() for _ in range(1000)}) == 1000


@given(st.lists(seconds, min_size=2, unique=True), payloads, payloads)
def test_ids_sort_by_time(moments: list[int], one: bytes, other: bytes) -> None:
    """The order of texts is the order of seconds, whatever the random bits."""
    ids = [
        encode(moment, payload) for moment, payload in zip(sorted(moments), [one, other] * len(moments), strict=False)
    ]
    assert all(earlier < later for earlier, later in pairwise(ids))


@given(seconds, payloads)
def test_every_id_is_one(moment: int, payload: bytes) -> None:
    """What is encoded is accepted as it is, also from a client."""
    text = encode(moment, payload)
    assert parse_job_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 26,
        "0" * 28,
        "0" * 27 + "\n",
        " " + "0" * 26,
        "0" * 26 + "-",
        "../" + "0" * 24,
        "0" * 26 + "\0",
        "0" * 26 + "é",
        "\N{ARABIC-INDIC DIGIT ZERO}" * 27,
        "\N{FULLWIDTH DIGIT ZERO}" * 27,
        "0" * 10_000,
    ],
)
def test_what_is_no_id(text: str) -> None:
    """Any other length, and any character but ASCII letters and digits, is no id: it cannot be a path or a pattern."""
    assert parse_job_id(text) is None
