"""What a job is limited to: every kind of request on every kind of host, as one table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmaster.errors import InvalidRequest, LimitNotEnforceable
from jobmaster.host.cgroup.limits import Controller, IoLimits, Limits, OomPolicy
from jobmaster.job.limits import NO_LIMITS, IoRequest, LimitRequest
from jobmaster.run.limits import Capabilities, Ceilings, LimitPolicy, default_limits, policy_of_client, resolve
from tests.run.policies import NO_POLICY, WHY_NOT, enforcement_of

M = 2**20
DISKS = {"8:0": "8:0", "8:1": "8:0", "254:0": "254:0", "7:7": None}
"""What a host with the disks 8:0, which has a partition, and 254:0 makes of devices."""

CAPABLE = Capabilities(enforcement=enforcement_of(tuple(Controller)), io_device="254:0")
FREE = LimitPolicy(capabilities=CAPABLE, oom_policy=OomPolicy.PROCESS)
"""A host that enforces all, and an operator who has set nothing."""

OPTIONS = Limits(cpu_max=0.5, memory_max=64 * M, pids_max=4096, io=IoLimits(write_bps=20 * M))
STRICT = replace(FREE, defaults=OPTIONS, ceilings=Ceilings.of(OPTIONS))
"""An operator who has set options."""
GENEROUS = replace(STRICT, ceilings=Ceilings(cpu_millicores=4000, memory_max=128 * M, swap_max=8 * M))
"""One whose defaults are less than the most."""
LOW_OPTIONS = Limits(cpu_max=0.01, io=IoLimits(write_bps=M, read_iops=10))
LOW = replace(FREE, defaults=LOW_OPTIONS, ceilings=Ceilings.of(LOW_OPTIONS))
"""One who has set less than jobs may ask for."""
OPTION_VALUES = (
    "memory.swap.max 0",
    "memory.max 67108864",
    "pids.max 4096",
    "cpu.max 50000 100000",
    "io.max 254:0 rbps=max wbps=20971520 riops=max wiops=max",
)


def written(request: LimitRequest, policy: LimitPolicy) -> tuple[str, ...]:
    """What is written for a job that asks for this."""
    return tuple(f"{write.file} {write.text}" for write in resolve(request, policy, DISKS).writes)


def but(**changed: str) -> tuple[str, ...]:
    """What the options make, but for these files, named with _ for a dot."""
    texts = {name.replace("_", "."): value for name, value in changed.items()}
    return tuple(f"{file} {texts[file]}" if (file := text.split()[0]) in texts else text for text in OPTION_VALUES)


@pytest.mark.parametrize(
    ("request_", "policy", "expected"),
    [
        (NO_LIMITS, FREE, ()),
        (NO_LIMITS, STRICT, OPTION_VALUES),
        (NO_LIMITS, GENEROUS, OPTION_VALUES),
        (LimitRequest(cpu_millicores=1500), FREE, ("cpu.max 150000 100000",)),
        (LimitRequest(cpu_millicores=50), FREE, ("cpu.max 50000 1000000",)),
        (LimitRequest(memory_max=32 * M), FREE, ("memory.swap.max 0", "memory.max 33554432")),
        (LimitRequest(swap_max=0), FREE, ("memory.swap.max 0",)),
        (
            LimitRequest(memory_max=32 * M, memory_high=16 * M, swap_max=M),
            FREE,
            ("memory.swap.max 1048576", "memory.max 33554432", "memory.high 16777216"),
        ),
        (LimitRequest(pids_max=100), FREE, ("pids.max 100",)),
        (LimitRequest(cpu_weight=1, io_weight=10_000), FREE, ("cpu.weight 1", "io.weight default 10000")),
        (
            LimitRequest(io=(IoRequest(read_bps=8 * M), IoRequest(device="8:1", write_iops=200))),
            FREE,
            (
                "io.max 254:0 rbps=8388608 wbps=max riops=max wiops=max",
                "io.max 8:0 rbps=max wbps=max riops=max wiops=200",
            ),
        ),
        # less than the operator's, as much, and more where there is more to have
        (LimitRequest(cpu_millicores=100), STRICT, but(cpu_max="10000 100000")),
        (LimitRequest(memory_max=64 * M, pids_max=4096), STRICT, OPTION_VALUES),
        (
            LimitRequest(cpu_millicores=4000, memory_max=128 * M, swap_max=8 * M, pids_max=10_000),
            GENEROUS,
            but(cpu_max="400000 100000", memory_max="134217728", memory_swap_max="8388608", pids_max="10000"),
        ),
        # what is asked for of one disk leaves the operator's rates of it
        (
            LimitRequest(io=(IoRequest(device="254:0", read_bps=9 * M),)),
            STRICT,
            but(io_max="254:0 rbps=9437184 wbps=20971520 riops=max wiops=max"),
        ),
        (
            LimitRequest(io=(IoRequest(device="8:0", write_bps=99 * M),)),
            STRICT,
            (*OPTION_VALUES, "io.max 8:0 rbps=max wbps=103809024 riops=max wiops=max"),
        ),
        # memory.high below the operator's memory.max
        (LimitRequest(memory_high=M), STRICT, (*OPTION_VALUES[:2], "memory.high 1048576", *OPTION_VALUES[2:])),
    ],
)
def test_what_is_written(request_: LimitRequest, policy: LimitPolicy, expected: tuple[str, ...]) -> None:
    """Each limit is what the job asks for, else the server's default."""
    assert written(request_, policy) == expected


@pytest.mark.parametrize(
    ("request_", "policy", "field", "words"),
    [
        (LimitRequest(cpu_millicores=501), STRICT, "cpu_millicores", "500 at most on this server, not 501"),
        (LimitRequest(memory_max=65 * M), STRICT, "memory_max", "67108864 at most on this server, not 68157440"),
        (LimitRequest(swap_max=1), STRICT, "swap_max", "0 at most on this server, not 1"),
        (LimitRequest(pids_max=4097), STRICT, "pids_max", "4096 at most on this server, not 4097"),
        (
            LimitRequest(io=(IoRequest(device="8:0", read_bps=8 * M), IoRequest(write_bps=21 * M))),
            STRICT,
            "io[1].write_bps",
            "20971520 at most on this server, not 22020096",
        ),
        (LimitRequest(memory_max=129 * M), GENEROUS, "memory_max", "134217728 at most on this server, not 135266304"),
        (LimitRequest(memory_high=65 * M), STRICT, "memory_high", "memory_max at most, 67108864, not 68157440"),
        (LimitRequest(memory_high=M), FREE, "memory_high", "needs a memory_max too"),
        (LimitRequest(cpu_millicores=49), FREE, "cpu_millicores", "from 50 to , not 49"),
        (LimitRequest(cpu_weight=10_001), FREE, "cpu_weight", "from 1 to 10000, not 10001"),
        (LimitRequest(io_weight=0), FREE, "io_weight", "from 1 to 10000, not 0"),
        (LimitRequest(pids_max=2**23), FREE, "pids_max", "from 1 to 4194304, not 8388608"),
        (LimitRequest(io=(IoRequest(read_bps=2),)), FREE, "io[0].read_bps", "from 8388608 to"),
        (LimitRequest(io=(IoRequest(write_iops=199),)), FREE, "io[0].write_iops", "from 200 to"),
        (LimitRequest(io=(IoRequest(device="7:7", read_iops=200),)), FREE, "io[0].device", "no block device 7:7"),
        (
            LimitRequest(io=(IoRequest(device="8:0", read_iops=200), IoRequest(device="8:1", write_iops=200))),
            FREE,
            "io[1].device",
            "the disk 8:0 has two io limits",
        ),
        (
            LimitRequest(io=(IoRequest(read_iops=200), IoRequest(device="254:0", write_iops=200))),
            FREE,
            "io[1].device",
            "the disk 254:0 has two io limits",
        ),
    ],
)
def test_what_no_job_may_have(request_: LimitRequest, policy: LimitPolicy, field: str, words: str) -> None:
    """More than the ceiling is refused with both numbers, as is what no kernel has, by the name of the field."""
    with pytest.raises(InvalidRequest) as caught:
        resolve(request_, policy, DISKS)
    assert caught.value.field == f"limits.{field}"
    assert all(part in str(caught.value) for part in words.split(", not "))


LOW_VALUES = ("cpu.max 10000 1000000", "io.max 254:0 rbps=max wbps=1048576 riops=10 wiops=max")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (NO_LIMITS, LOW_VALUES),
        (LimitRequest(cpu_millicores=10, io=(IoRequest(write_bps=M, read_iops=10),)), LOW_VALUES),
        (
            LimitRequest(io=(IoRequest(device="254:0", read_bps=8 * M),)),
            (LOW_VALUES[0], "io.max 254:0 rbps=8388608 wbps=1048576 riops=10 wiops=max"),
        ),
    ],
)
def test_options_below_what_jobs_may_ask_for(request_: LimitRequest, expected: tuple[str, ...]) -> None:
    """They are in force, also for a job that asks for just that, and beside other rates of the disk."""
    assert written(request_, LOW) == expected


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (LimitRequest(cpu_millicores=9), "cpu_millicores", "10 on this server, neither more nor less: not 9"),
        (LimitRequest(cpu_millicores=50), "cpu_millicores", "10 on this server, neither more nor less: not 50"),
        (LimitRequest(io=(IoRequest(write_bps=M - 1),)), "io[0].write_bps", "1048576 on this server, neither"),
        (LimitRequest(io=(IoRequest(write_bps=8 * M),)), "io[0].write_bps", "1048576 on this server, neither"),
        (LimitRequest(io=(IoRequest(write_iops=199),)), "io[0].write_iops", "from 200 to"),
        (LimitRequest(io=(IoRequest(device="8:0", write_bps=M),)), "io[0].write_bps", "from 8388608 to"),
    ],
)
def test_nothing_else_than_such_an_option(request_: LimitRequest, field: str, words: str) -> None:
    """A job gets neither more than the operator's limit, nor less than what jobs may ask for; and other disks have no such one."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        resolve(request_, LOW, DISKS)
    assert caught.value.field == f"limits.{field}"


@pytest.mark.parametrize(
    ("controller", "request_"),
    [
        (Controller.CPU, LimitRequest(cpu_millicores=100)),
        (Controller.CPU, LimitRequest(cpu_weight=100)),
        (Controller.MEMORY, LimitRequest(memory_max=M)),
        (Controller.MEMORY, LimitRequest(swap_max=0)),
        (Controller.PIDS, LimitRequest(pids_max=1)),
        (Controller.IO, LimitRequest(io_weight=100)),
        (Controller.IO, LimitRequest(io=(IoRequest(read_iops=200),))),
    ],
)
def test_what_this_host_cannot_enforce(controller: Controller, request_: LimitRequest) -> None:
    """A limit that is asked for needs its controller, and no other one; the error names it and the reason."""
    others = replace(CAPABLE, enforcement=enforcement_of(set(Controller) - {controller}))
    with pytest.raises(LimitNotEnforceable, match=WHY_NOT.format(controller)):
        resolve(request_, replace(FREE, capabilities=others), DISKS)
    alone = replace(CAPABLE, enforcement=enforcement_of({controller}))
    assert resolve(request_, replace(FREE, capabilities=alone), DISKS).writes


OWN = {"cpu_max": 2.0, "memory_max": 96 * M, "pids_max": 100, "write_bps": 30 * M}
"""Ceilings of a client, but for the processes above what an operator has set for all."""


@pytest.mark.parametrize(
    ("own", "policy", "request_", "expected"),
    [
        # a default is never above the client's ceiling, and what is above the server's ceiling may be asked for
        (OWN, STRICT, NO_LIMITS, but(pids_max="100")),
        (OWN, FREE, NO_LIMITS, ("memory.swap.max 0", "memory.max 100663296", "pids.max 100", "cpu.max 200000 100000")),
        (OWN, STRICT, LimitRequest(cpu_millicores=2000), but(cpu_max="200000 100000", pids_max="100")),
        (OWN, STRICT, LimitRequest(memory_max=96 * M), but(memory_max="100663296", pids_max="100")),
        # one that is lifted leaves the default
        ({"memory_max": None, "pids_max": None}, STRICT, NO_LIMITS, OPTION_VALUES),
        ({"pids_max": None}, STRICT, LimitRequest(pids_max=10_000), but(pids_max="10000")),
        ({"memory_max": None}, STRICT, LimitRequest(memory_max=1024 * M), but(memory_max="1073741824")),
        # of swap
        ({"swap_max": 4 * M}, FREE, NO_LIMITS, ("memory.swap.max 4194304",)),
        ({"swap_max": 4 * M}, STRICT, NO_LIMITS, OPTION_VALUES),
        ({"swap_max": 4 * M}, STRICT, LimitRequest(swap_max=4 * M), but(memory_swap_max="4194304")),
    ],
)
def test_ceilings_of_a_client(
    own: dict[str, float | None], policy: LimitPolicy, request_: LimitRequest, expected: tuple[str, ...]
) -> None:
    """They take the place of the server's for the jobs of that client, be they lower or higher."""
    found = written(request_, policy_of_client(policy, own))
    assert [each for each in found if not each.startswith("io.max") or policy is STRICT] == list(expected)


@pytest.mark.parametrize(
    ("own", "request_", "words"),
    [
        (OWN, LimitRequest(cpu_millicores=2001), "cpu_millicores is 2000 at most on this server, not 2001"),
        (OWN, LimitRequest(memory_max=97 * M), f"memory_max is {96 * M} at most on this server, not {97 * M}"),
        (OWN, LimitRequest(swap_max=1), "swap_max is 0 at most on this server, not 1"),
        ({"memory_max": None}, LimitRequest(pids_max=4097), "pids_max is 4096 at most on this server, not 4097"),
        (OWN, LimitRequest(io=(IoRequest(write_bps=31 * M),)), f"write_bps is {30 * M} at most on this server"),
    ],
)
def test_more_than_a_client_may_have(own: dict[str, float | None], request_: LimitRequest, words: str) -> None:
    """It is refused with both numbers; what is not said of the client is as for all."""
    with pytest.raises(InvalidRequest, match=words):
        resolve(request_, policy_of_client(STRICT, own), DISKS)


def test_a_clients_rates_without_a_disk() -> None:
    """Where the server has no disk of its own choice, they limit none."""
    policy = replace(FREE, capabilities=replace(CAPABLE, io_device=None))
    assert written(NO_LIMITS, policy_of_client(policy, {"write_bps": 30 * M})) == ()


def test_a_weight_that_no_disk_heeds() -> None:
    """With the io controller alone a weight would be written and change nothing: it is refused with the reason."""
    policy = replace(FREE, capabilities=replace(CAPABLE, no_io_weights_because="iocost is off"))
    with pytest.raises(LimitNotEnforceable, match="io controller: iocost is off"):
        resolve(LimitRequest(io_weight=100), policy, DISKS)
    assert resolve(LimitRequest(io=(IoRequest(read_iops=200),)), policy, DISKS).writes


def test_outputs_on_no_disk() -> None:
    """Where the server has no disk of its own choice, a job has to name one."""
    policy = replace(FREE, capabilities=replace(CAPABLE, io_device=None))
    with pytest.raises(LimitNotEnforceable, match="name a device"):
        resolve(LimitRequest(io=(IoRequest(read_iops=200),)), policy, DISKS)
    assert written(LimitRequest(io=(IoRequest(device="8:1", read_iops=200),)), policy) == (
        "io.max 8:0 rbps=max wbps=max riops=200 wiops=max",
    )


def test_defaults_that_are_not_enforced_are_reported() -> None:
    """A default that this host cannot enforce is not written, and its report says why not; it is no reason to refuse."""
    host = replace(CAPABLE, enforcement=enforcement_of({Controller.PIDS}))
    limits = resolve(LimitRequest(pids_max=10), replace(STRICT, capabilities=host), DISKS)
    assert [f"{write.file} {write.text}" for write in limits.writes] == ["pids.max 10"]
    assert [(each.value, each.not_enforced_because, each.requested) for each in limits.reports] == [
        ("memory.max 67108864", WHY_NOT.format("memory"), False),
        ("pids.max 10", None, True),
        ("cpu.max 50000 100000", WHY_NOT.format("cpu"), False),
        ("io.max 254:0 rbps=max wbps=20971520 riops=max wiops=max", WHY_NOT.format("io"), False),
    ]


def test_what_a_record_says_was_asked_for() -> None:
    """The limits of the request are told from the defaults; those that are only a part of another default are told too."""
    request = LimitRequest(
        memory_max=M, memory_high=M, swap_max=0, cpu_weight=9, io_weight=9, io=(IoRequest(device="8:0", read_iops=200),)
    )
    reports = resolve(request, STRICT, DISKS).reports
    assert {each.value.split()[0] for each in reports if each.requested} == {
        *("memory.max", "memory.high", "memory.swap.max", "cpu.weight", "io.weight", "io.max"),
    }
    assert [each.value.split()[:2] for each in reports if not each.requested] == [
        ["pids.max", "4096"],
        ["cpu.max", "50000"],
        ["io.max", "254:0"],
    ]


def test_a_host_without_any_controller() -> None:
    """Nothing is written, and nothing reported, where nothing is set."""
    assert default_limits(NO_POLICY) == resolve(NO_LIMITS, NO_POLICY, {})
    assert (default_limits(NO_POLICY).writes, default_limits(NO_POLICY).reports) == ((), ())


@pytest.mark.parametrize("name", ["cpu_max", "memory_max", "pids_max"])
def test_what_the_options_do_not_set_has_no_ceiling(name: str) -> None:
    """A server without options lets a job ask for anything."""
    ceilings = Ceilings.of(replace(OPTIONS, **{name: None}))  # type: ignore[arg-type]  # the field's name is a parameter
    assert getattr(ceilings, {"cpu_max": "cpu_millicores"}.get(name, name)) is None
    assert (ceilings.swap_max is None) == (name == "memory_max")
