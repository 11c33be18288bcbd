"""What is thought of limits, users and certificates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from jobmaster.certs.inspection import CertificateFile
from jobmaster.host.account import Account
from jobmaster.host.cgroup.controllers import Enforced, Enforcement, NotEnforced
from jobmaster.host.cgroup.limits import Controller, IoLimits, Limits
from jobmaster.host.uid_range import DEFAULT_UID_RANGE, UidRange
from jobmaster.run.accounts import AccountPolicy
from jobmaster.server.findings import Verdict
from jobmaster.server.judgements import (
    of_absent_certificate,
    of_accounts,
    of_certificate,
    of_limits,
    of_small_limits,
)

NOW: Final = datetime(2026, 11, 30, tzinfo=UTC)
ENFORCEMENT: Final = Enforcement(
    cpu=Enforced(controller=Controller.CPU),
    io=Enforced(controller=Controller.IO),
    memory=NotEnforced(controller=Controller.MEMORY, reason="this host binds it to v1"),
    pids=Enforced(controller=Controller.PIDS),
)


def account(uid: int) -> Account:
    """One that is called x."""
    return Account(name="x", uid=uid, gid=uid, groups=(), home="/")


@pytest.mark.parametrize(("all_required", "verdict"), [(False, Verdict.WARNING), (True, Verdict.MISSING)])
def test_a_limit_that_is_not_enforced(all_required: bool, verdict: Verdict) -> None:
    """It is a warning, and missing where all are required; the limit and the reason are told, and what is enforced is well."""
    limits = {"cpu": "cpu.max 1", "memory": "memory.max 2"}
    cpu, io, memory, pids = of_limits(ENFORCEMENT, limits, "8:0", all_required=all_required)
    assert (cpu.verdict, cpu.text) == (
        Verdict.OK,
        "limit for each job: cpu.max 1; enforced by the cpu controller",
    )
    assert io.text == "limit for each job: none on 8:0; enforced by the io controller"
    assert (memory.topic, memory.verdict) == ("memory", verdict)
    assert memory.text == "limit for each job: memory.max 2; NOT ENFORCED: this host binds it to v1"
    assert (pids.topic, pids.verdict) == ("pids", Verdict.OK)


@pytest.mark.parametrize(
    ("limits", "topic", "words"),
    [
        (Limits(cpu_max=0.01), "cpu", "--cpu-max 0.01 is so little"),
        (Limits(io=IoLimits(read_bps=1)), "io", "--io-read-bps 1 is so little"),
        (Limits(io=IoLimits(write_bps=2**20)), "io", "--io-write-bps 1M is so little"),
        (Limits(io=IoLimits(read_iops=199)), "io", "--io-read-iops 199 is so little"),
        (Limits(io=IoLimits(write_iops=10)), "io", "--io-write-iops 10 is so little"),
    ],
)
def test_limits_that_do_harm(limits: Limits, topic: str, words: str) -> None:
    """Each that is less than a job may ask for is warned of, with what it does and what would be enough."""
    (found,) = of_small_limits(limits)
    assert (found.topic, found.verdict) == (topic, Verdict.WARNING)
    assert words in found.text
    assert {"cpu": "allow 0.05 or more", "io": "or more, or name a disk"}[topic] in found.remedy


def test_limits_that_do_none() -> None:
    """What any job may ask for is not warned of, nor what is not limited."""
    io = IoLimits(read_bps=8 * 2**20, write_bps=8 * 2**20, read_iops=200, write_iops=200)
    assert list(of_small_limits(Limits(cpu_max=0.05, memory_max=1, pids_max=1, io=io))) == []
    assert list(of_small_limits(Limits())) == []


def test_io_limits_without_a_disk() -> None:
    """No disk is told as such."""
    _, io, *_ = of_limits(ENFORCEMENT, {}, None, all_required=False)
    assert "none on no device" in io.text


@pytest.mark.parametrize(
    ("common", "is_root", "verdict", "words"),
    [
        (DEFAULT_UID_RANGE, True, Verdict.OK, str(DEFAULT_UID_RANGE)),
        (account(0), True, Verdict.WARNING, "can leave their cgroup"),
        (account(65534), True, Verdict.WARNING, "can read, signal and trace one another: leave --run-as out"),
        (account(1000), False, Verdict.WARNING, "and the server: run it as root"),
    ],
)
def test_the_user_of_the_jobs(common: Account | UidRange, is_root: bool, verdict: Verdict, words: str) -> None:
    """Whatever does not keep clients' jobs apart is warned of, with a remedy."""
    found = of_accounts(AccountPolicy(common=common), drops_privileges=is_root)
    assert (found.verdict, bool(found.remedy)) == (verdict, verdict is Verdict.WARNING)
    assert words in found.sentence


@pytest.mark.parametrize(
    ("of_clients", "verdict", "words"),
    [
        ({"ann": account(1000), "bob": account(1001)}, Verdict.OK, "those of ann as "),
        (
            {"ann": account(0)},
            Verdict.WARNING,
            "jobs of ann run as root, and can leave their cgroup and its limits: name",
        ),
        ({"ann": account(1000), "bob": account(1000)}, Verdict.WARNING, "jobs of ann, bob run as "),
        ({"ann": "gone"}, Verdict.OK, "those of ann as gone (who is not there)"),
    ],
)
def test_the_users_of_single_clients(of_clients: dict[str, Account | str], verdict: Verdict, words: str) -> None:
    """They are named, and warned of where they keep nothing apart."""
    found = of_accounts(AccountPolicy(common=DEFAULT_UID_RANGE, of_clients=of_clients), drops_privileges=True)
    assert found.verdict is verdict
    assert words in found.sentence


@pytest.mark.parametrize(
    ("begins", "ends", "verdict", "words"),
    [
        (-1, 31, Verdict.OK, "valid until 2026-12-31 (31 days)"),
        (-1, 30, Verdict.OK, "(30 days)"),
        (-1, 29, Verdict.WARNING, "(29 days): `python -m jobmaster.certs issue client1 --force`"),
        (-2, -1, Verdict.MISSING, "expired at 2026-11-29 00:00 UTC: `python"),
        (1, 300, Verdict.MISSING, "not valid before 2026-12-01 00:00 UTC: set this host's clock right"),
    ],
)
def test_the_period_of_a_certificate(begins: int, ends: int, verdict: Verdict, words: str) -> None:
    """Expired and not yet valid ones are missing; one that expires within 30 days is warned of; each with its remedy."""
    days = timedelta(days=1)
    file = CertificateFile(who="client1", not_before=NOW + begins * days, not_after=NOW + ends * days)
    found = of_certificate(file, NOW)
    assert found.verdict is verdict
    assert "client1_cert.pem" in found.sentence
    assert words in found.sentence


def test_an_authority_is_not_issued_as_a_client_is() -> None:
    """The remedy of an expired authority or server is another one than a client's."""
    for who in ("server1", "server_ca", "client_ca"):
        assert "init --force" in of_certificate(CertificateFile(who=who), NOW).remedy


def test_a_certificate_that_is_unsound() -> None:
    """Its fault is told as it is."""
    found = of_certificate(CertificateFile(who="client1", fault="holds nothing: put it right"), NOW)
    assert (found.verdict, found.text) == (Verdict.MISSING, "holds nothing: put it right")


@pytest.mark.parametrize(
    ("who", "verdict"),
    [("server1", Verdict.MISSING), ("client_ca", Verdict.MISSING), ("server_ca", Verdict.WARNING)],
)
def test_an_absent_certificate(who: str, verdict: Verdict) -> None:
    """A server starts without the authority that only its clients need, and without no other."""
    assert of_absent_certificate(who, Path("/certs")).verdict is verdict
