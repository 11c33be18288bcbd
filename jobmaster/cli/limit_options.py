"""The options by which `start` and `run` limit a job. Pure."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from jobmaster.address import argument
from jobmaster.cli.actions import NO_LIMITS, IoLimit, Limits
from jobmaster.sizes import NUMBER_LENGTH, parse_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from jobmaster.jobs.v1 import jobs_pb2 as pb

_SIZES: Final = {
    "--memory": ("memory_max", "memory, page cache included, such as 512M; who needs more is killed"),
    "--memory-high": (
        "memory_high",
        "memory beyond which the job is slowed down, and its memory reclaimed; less than --memory, and only where that is set too, here or by the server",
    ),
    "--swap": ("swap_max", "swap on top of the memory; 0 for none, as where there is a --memory"),
}
_COUNTS: Final = {
    "--pids": ("pids_max", "N", "processes and threads"),
    "--cpu-weight": (
        "cpu_weight",
        "WEIGHT",
        "share of the CPU among your jobs, from 1 to 10000; that of others is 100",
    ),
    "--io-weight": ("io_weight", "WEIGHT", "share of the disks, likewise"),
}
_CPUS: Final = "--cpus"
_RATES: Final = {
    "--io-read": ("read_bps", "RATE", "bytes a second read from a disk, such as 10M"),
    "--io-write": ("write_bps", "RATE", "bytes a second written to it"),
    "--io-read-iops": ("read_iops", "N", "reads a second"),
    "--io-write-iops": ("write_iops", "N", "writes a second"),
}
OPTIONS: Final = frozenset({_CPUS, *_SIZES, *_COUNTS, *_RATES})
"""All of them; each has a value."""
USAGE: Final = "[LIMITS]"
"""What stands for them in a verb's usage."""
_CORES: Final = re.compile(r"[0-9]+(?:\.[0-9]{1,3})?", re.ASCII)
_LARGEST: Final = 2**63 - 1
"""Bytes or operations that a message can ask for."""


def add_limit_options(verb: argparse.ArgumentParser) -> None:
    """Adds them, in a group of their own."""
    group = verb.add_argument_group(
        "limits", "what the job may use of the server's host; the default is the server's, and often the most it allows"
    )
    group.add_argument(
        _CPUS,
        metavar="CORES",
        dest="cpu_millicores",
        type=argument(parse_millicores),
        help="CPU time, such as 0.5 or 2",
    )
    for option, (name, text) in _SIZES.items():
        parse_text = parse_swap if name == "swap_max" else parse_bytes
        group.add_argument(option, metavar="SIZE", dest=name, type=argument(parse_text), help=text)
    for option, (name, metavar, text) in _COUNTS.items():
        group.add_argument(option, metavar=metavar, dest=name, type=argument(parse_count), help=text)
    for option, (name, metavar, text) in _RATES.items():
        parse = parse_bytes if metavar == "RATE" else parse_count
        where = "; the disk by its MAJ:MIN, else the one that the server has chosen; may be given for several"
        group.add_argument(
            option,
            metavar=f"[DISK=]{metavar}",
            dest=name,
            type=argument(_of_disk(parse)),
            action="append",
            default=[],
            help=text + (where if name == "read_bps" else ""),
        )


def limits_of(given: argparse.Namespace) -> Limits:
    """The limits of a command line that was parsed.

    Raises:
        ValueError: a disk has two rates of one kind, or --memory-high is more than --memory.
    """
    names = ["cpu_millicores", *(name for name, *_ in (*_SIZES.values(), *_COUNTS.values()))]
    limits = {name: getattr(given, name) for name in names}
    high, most = limits["memory_high"], limits["memory_max"]
    if high is not None and most is not None and high > most:
        raise ValueError("--memory-high is more than --memory: give it less")
    return Limits(**limits, io=tuple(_io_limits(given)))


def limits_message(limits: Limits) -> pb.JobLimits | None:
    """What a Start says of them; None where there are none, as with most jobs."""
    if limits == NO_LIMITS:
        return None
    from jobmaster.jobs.v1 import jobs_pb2 as pb  # here, because the parser needs none

    io = [pb.IoLimit(**asdict(each)) for each in limits.io]
    return pb.JobLimits(**{**asdict(limits), "io": io})


def _io_limits(given: argparse.Namespace) -> Iterator[IoLimit]:
    disks: dict[str, dict[str, int]] = {}
    for option, (name, *_) in _RATES.items():
        for disk, rate in getattr(given, name):
            rates = disks.setdefault(disk, {})
            if name in rates:
                raise ValueError(f"{option} is given twice for {disk or 'the disk that the server has chosen'}")
            rates[name] = rate
    for disk, rates in disks.items():
        yield IoLimit(device=disk, **rates)


def parse_millicores(text: str) -> int:
    """Thousandths of a core from `0.5` or `2`.

    Raises:
        ValueError: it is no such number, has more decimals, or is 0.
    """
    whole, _, decimals = text.partition(".")
    if _CORES.fullmatch(text) is None or len(text) > NUMBER_LENGTH:
        raise ValueError(f"{text!r} is not a number of cores: use one such as 0.5 or 2, with three decimals at most")
    return _checked(text, int(whole) * 1000 + int(decimals.ljust(3, "0")))


def parse_bytes(text: str) -> int:
    """Bytes from `64M` or `4096`.

    Raises:
        ValueError: it is no such size.
    """
    size = parse_size(text)
    if size is None:
        raise ValueError(f"{text!r} is not a size: use bytes, or a number with K, M, G or T (of 1024)")
    return _checked(text, size)


def parse_swap(text: str) -> int:
    """As `parse_bytes`; 0 is no swap.

    Raises:
        ValueError: it is no such size.
    """
    return 0 if text == "0" else parse_bytes(text)


def parse_count(text: str) -> int:
    """A number.

    Raises:
        ValueError: it is none.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) > NUMBER_LENGTH:
        raise ValueError(f"{text!r} is no number")
    return _checked(text, int(text))


def _checked(text: str, number: int) -> int:
    if not 0 < number <= _LARGEST:  # 0 would be the server's default to it
        raise ValueError(f"{text!r} is too {'large' if number else 'small'}")
    return number


def _of_disk(parse: Callable[[str], int]) -> Callable[[str], tuple[str, int]]:
    def parse_of_disk(text: str) -> tuple[str, int]:
        disk, _, rate = text.rpartition("=")
        return disk, parse(rate)

    return parse_of_disk
