"""The options that limit a job: their texts as integers, and as the message of a Start."""

from __future__ import annotations

import pytest

from jobmaster.cli.actions import NO_LIMITS, Command, IoLimit, Limits, Start, Terms
from jobmaster.cli.arguments import parse
from jobmaster.cli.limit_options import OPTIONS, limits_message, parse_bytes, parse_count, parse_millicores, parse_swap
from jobmaster.cli.parser import TextAsked, UsageError, new_parser
from jobmaster.jobs.v1 import jobs_pb2 as pb


@pytest.mark.parametrize(
    ("text", "millicores"), [("1", 1000), ("0.5", 500), ("1.25", 1250), ("0.001", 1), ("64", 64_000), ("007.010", 7010)]
)
def test_cores_are_exact(text: str, millicores: int) -> None:
    """Decimals become thousandths without rounding."""
    assert parse_millicores(text) == millicores


@pytest.mark.parametrize("text", ["", "0", "0.000", "-1", "1.", ".5", "1e3", "0.0001", "max", "٣", "9" * 50, "9" * 39])
def test_what_is_no_number_of_cores(text: str) -> None:
    """It is refused; also 0, which on the wire would be the server's default, and more decimals than there are."""
    with pytest.raises(ValueError, match=r"number of cores|too small|too large"):
        parse_millicores(text)


def test_sizes_and_counts() -> None:
    """Sizes have suffixes; 0 is one of swap alone, and there is no `max`: what is left out is the server's default."""
    assert (parse_bytes("1.5K"), parse_count("7"), parse_swap("0"), parse_swap("1M")) == (1536, 7, 0, 2**20)
    for text in ("0", "max", "x", "9" * 20 + "T"):
        with pytest.raises(ValueError, match=r"is not a size|too small|too large"):
            parse_bytes(text)
    for text in ("0", "1K", "-1", "9" * 20, "9" * 50):
        with pytest.raises(ValueError, match=r"is no number|too small|too large"):
            parse_count(text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--io-read", "10M", "--io-read", "20M"], "--io-read is given twice for the disk that the server has chosen"),
        (["--io-write", "8:0=10M", "--io-write=8:0=20M"], "--io-write is given twice for 8:0"),
        (["--memory", "1M", "--memory-high", "2M"], "--memory-high is more than --memory"),
        (["--memory"], "expected one argument"),
        (["--io-read-iops", "8:0=1K"], "'1K' is no number"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "start"])
def test_what_cannot_be_meant(verb: str, words: list[str], told: str) -> None:
    """It is wrong usage, before anything is asked of a server."""
    with pytest.raises(UsageError, match=told):
        parse(["-n", "client1", verb, *words, *(() if words == ["--memory"] else ("ls",))])


@pytest.mark.parametrize("verb", ["run", "start"])
def test_help_has_them(verb: str) -> None:
    """They are in the help of both verbs, though most command lines are parsed without them."""
    with pytest.raises(TextAsked) as asked:
        new_parser(needs_name=False).parse_args([verb, "--help"])
    assert all(option in str(asked.value) for option in OPTIONS)


def test_the_message() -> None:
    """What is not given is not set, so that the server's default holds; no limits are no message."""
    assert limits_message(NO_LIMITS) is None
    command = parse(["-n", "client1", "start", "--swap", "0", "--io-write", "8:0=10M", "--cpus", "0.5", "ls"])
    assert isinstance(command, Command)
    assert command.action == Start(
        ("ls",),
        terms=Terms(
            limits=Limits(swap_max=0, cpu_millicores=500, io=(IoLimit(device="8:0", write_bps=10 * 2**20),)),
        ),
    )
    assert limits_message(command.action.terms.limits) == pb.JobLimits(
        swap_max=0, cpu_millicores=500, io=[pb.IoLimit(device="8:0", write_bps=10 * 2**20)]
    )
