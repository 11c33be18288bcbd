"""Ranges of user ids."""

from __future__ import annotations

import pytest

from jobmaster.host.uid_range import DEFAULT_UID_RANGE, SMALL_UID_RANGE, UidRange, parse_uid_range


def test_what_is_in_it() -> None:
    """Both ends are, each number comes once from any place on, and its text is how it is written."""
    uids = parse_uid_range("5000-5003")
    assert uids == UidRange(first=5_000, last=5_003)
    assert [number in uids for number in (4_999, 5_000, 5_003, 5_004)] == [False, True, True, False]
    assert list(uids.beginning_at(4 * 10**18 + 2)) == [5_002, 5_003, 5_000, 5_001]
    assert (len(uids), str(uids)) == (4, "5000-5003")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is no range"),
        ("5000", "'5000' is no range"),
        ("5000-", "is no range"),
        ("5000-6000-7000", "is no range"),
        ("-5000-6000", "is no range"),
        ("\N{ARABIC-INDIC DIGIT FIVE}000-6000", "is no range"),
        ("6000-5000", "6000-5000 is no range of user ids from 1000 to 2147483647"),
        ("0-5000", "0-5000 is no range"),
        ("999-5000", "999-5000 is no range"),
        ("5000-2147483648", "is no range"),
        ("65000-65534", "has 65534, which can be no user's"),
        ("65535-70000", "has 65535, which can be no user's"),
    ],
)
def test_what_is_none(text: str, complaint: str) -> None:
    """Root, the system's users, nobody, -1 and what is no text of a range are refused."""
    with pytest.raises(ValueError, match=complaint):
        parse_uid_range(text)


@pytest.mark.parametrize("uids", [DEFAULT_UID_RANGE, SMALL_UID_RANGE])
def test_the_defaults_meet_nobody(uids: UidRange) -> None:
    """No range that systemd, useradd(8) or sssd gives from has a number of ours."""
    taken = [
        (0, 60_705),  # of the system, of people, of systemd-homed, of hosts' users in containers, of greeters
        (61_184, 65_535),  # dynamic users, nobody, -1 of 16 bits
        (100_000, 600_100_000),  # login.defs(5): SUB_UID_MIN to SUB_UID_MAX
        (524_288, 1_879_048_191),  # systemd-nspawn
        (200_000, 2_000_200_000),  # sssd-ldap(5): ldap_idmap_range_min and _max
        (2_147_352_576, 2**32 - 1),  # foreign images, and what has a sign
    ]
    assert not [each for each in taken if each[0] <= uids.last and uids.first <= each[1]]
