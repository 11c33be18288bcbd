"""The keys of the configuration file: what each takes, what is said of a wrong one, and back to text."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

import jobmaster.server
from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.limits import IoLimits, Limits, OomPolicy
from jobmaster.host.uid_range import DEFAULT_UID_RANGE, UidRange
from jobmaster.identity.policy import DEFAULT_POLICY, Identity, Policy, Role
from jobmaster.journal.connection import Synchronous
from jobmaster.run.bounds import FreeSpace
from jobmaster.run.client_terms import ClientTerms
from jobmaster.run.quotas import Quota, StartRate
from jobmaster.server.client_schema import CLIENT_KEYS
from jobmaster.server.options import ServerOptions, new_parser, options_of
from jobmaster.server.schema import BY_KEY, LARGEST_FILE, SETTINGS, read_settings, render

EXAMPLE: Final = Path(jobmaster.server.__file__).parent / "config.example.toml"
DEFAULTS: Final = ServerOptions(output_folder=Path("/srv/output"))
OTHERS: Final = Policy(
    identities=frozenset({Identity(name="a-b", role=Role.ADMIN), Identity(name="1", role=Role.USER)})
)

# Every key: a value, and what it changes.
KEYS: Final[dict[str, tuple[str, dict[str, object]]]] = {
    "listen": ('"[::]:7000"', {"host": "::", "port": 7000}),
    "verbose": ("true", {"verbose": True}),
    "folders.output": ('"/other"', {"output_folder": Path("/other")}),
    "folders.audit": ('"/audit"', {"audit_folder": Path("/audit")}),
    "folders.certificates": ('"/certs"', {"certificates": Path("/certs")}),
    "folders.cgroup_root": ('"/sys/fs/cgroup/x"', {"cgroup_root": Path("/sys/fs/cgroup/x")}),
    "folders.work": ('"/work"', {"work_folder": Path("/work")}),
    "folders.work_free": ('"10%"', {"work_free": FreeSpace(percent=10)}),
    "jobs.run_as": ('"worker"', {"run_as": "worker"}),
    "jobs.uid_range": ('"5000-6000"', {"uid_range": UidRange(first=5000, last=6000)}),
    "jobs.max": ("20000", {"max_jobs": 20_000}),
    "jobs.grace": ("0.5", {"grace_seconds": 0.5}),
    "jobs.oom_policy": ('"process"', {"oom_policy": OomPolicy.PROCESS}),
    "limits.require": ("true", {"require_limits": True}),
    "limits.cpu_max": ("0.5", {"limits": Limits(pids_max=4096, cpu_max=0.5)}),
    "limits.memory_max": ('"512M"', {"limits": Limits(pids_max=4096, memory_max=512 * 2**20)}),
    "limits.pids_max": ('"max"', {"limits": Limits()}),
    "limits.io_device": ('"8:16"', {"io_device": "8:16"}),
    "limits.io_read_bps": ("8388608", {"limits": Limits(pids_max=4096, io=IoLimits(read_bps=2**23))}),
    "limits.io_write_bps": ('"1G"', {"limits": Limits(pids_max=4096, io=IoLimits(write_bps=2**30))}),
    "limits.io_read_iops": ("300", {"limits": Limits(pids_max=4096, io=IoLimits(read_iops=300))}),
    "limits.io_write_iops": ("200", {"limits": Limits(pids_max=4096, io=IoLimits(write_iops=200))}),
    "output.max": ('"64M"', {"output_max": 64 * 2**20}),
    "output.folder_max": ('"10G"', {"output_folder_max": 10 * 2**30}),
    "output.free": ('"10%"', {"output_free": FreeSpace(percent=10)}),
    "records.keep_jobs": ("5", {"keep_jobs": 5}),
    "records.keep_days": ("7", {"keep_for": timedelta(days=7)}),
    "records.durability": ('"off"', {"durability": Synchronous.OFF}),
    "restarts.max_gap": ("60", {"max_gap_seconds": 60}),
    "restarts.max_crashes": ("9", {"max_crashes": 9}),
    "audit.size": ('"1M"', {"audit_size": 2**20}),
    "audit.files": ("0", {"audit_files": 0}),
}
# Every key of a client: a value, and the terms it makes.
KEYS_OF_CLIENT: Final[dict[str, tuple[str, ClientTerms]]] = {
    "max_jobs": ("3", ClientTerms(quota=Quota(running=3))),
    "start_rate": ("60", ClientTerms(quota=Quota(starts=StartRate(per_minute=60, burst=10)))),
    "start_burst": ("7", ClientTerms(quota=Quota(starts=StartRate(per_minute=60, burst=7)))),
    "run_as": ('"worker"', ClientTerms(run_as="worker")),
    "limits.cpu_max": ("1.5", ClientTerms(ceilings={"cpu_max": 1.5})),
    "limits.memory_max": ('"512M"', ClientTerms(ceilings={"memory_max": 2**29})),
    "limits.swap_max": ("0", ClientTerms(ceilings={"swap_max": 0})),
    "limits.pids_max": ('"max"', ClientTerms(ceilings={"pids_max": None})),
    "limits.io_read_bps": ('"8M"', ClientTerms(ceilings={"read_bps": 2**23})),
    "limits.io_write_bps": ('"max"', ClientTerms(ceilings={"write_bps": None})),
    "limits.io_read_iops": ("300", ClientTerms(ceilings={"read_iops": 300})),
    "limits.io_write_iops": ("400", ClientTerms(ceilings={"write_iops": 400})),
    "total.cpu_max": ("4", ClientTerms(total=Limits(cpu_max=4.0))),
    "total.memory_max": ('"8G"', ClientTerms(total=Limits(memory_max=2**33))),
    "total.pids_max": ("1000", ClientTerms(total=Limits(pids_max=1000))),
}
# What else a key may say, where neither a folder nor 60 is another value of it.
OTHER_VALUES: Final = {
    "listen": '"other:1"',
    "verbose": "false",
    "folders.work_free": "60",
    "jobs.run_as": '"other"',
    "jobs.uid_range": '"7000-8000"',
    "jobs.oom_policy": '"job"',
    "limits.require": "false",
    "limits.io_device": '"9:9"',
    "limits.io_read_bps": '"16M"',
    "limits.io_write_bps": '"16M"',
    "limits.io_read_iops": "250",
    "limits.io_write_iops": "250",
    "output.max": '"1G"',
    "output.folder_max": '"1G"',
    "records.durability": '"normal"',
    "restarts.max_gap": "61",
    "audit.size": '"2M"',
}


def loaded(text: str) -> ServerOptions:
    """The options of a server that is given nothing but this file, and a folder."""
    settings = read_settings(text)
    return options_of((), {"output_dir": Path("/srv/output"), **settings.values}, settings.policy, settings.terms)


def changed(**changes: object) -> ServerOptions:
    """The default options with these changes."""
    return replace(DEFAULTS, **changes)  # type: ignore[arg-type]  # checked by the class itself


def as_text(key: str, value: str) -> str:
    """A file with one key."""
    table, _, name = key.rpartition(".")
    return f"[{table}]\n{name} = {value}\n" if table else f"{name} = {value}\n"


def mistakes_of(text: str) -> str:
    """What is said of a file."""
    with pytest.raises(ConfigurationError) as refusal:
        read_settings(text)
    return str(refusal.value)


def test_the_table_of_this_test_is_whole() -> None:
    """It has every key, so that those that follow do."""
    assert KEYS.keys() == BY_KEY.keys()


@pytest.mark.parametrize("key", KEYS)
def test_each_key(key: str) -> None:
    """A key changes what its option does, and nothing else; and what is in force is written as a file that says the same."""
    value, changes = KEYS[key]
    options = loaded(as_text(key, value))
    assert options == changed(**changes)
    assert render(loaded(render(options))) == render(options)
    assert replace(loaded(render(options)), audit_folder=options.audit_folder) == options


@pytest.mark.parametrize("key", KEYS)
def test_an_option_wins(key: str) -> None:
    """What the command line says counts, whatever the file says."""
    option = BY_KEY[key].option
    value, changes = KEYS[key]
    given = [option] if value == "true" else [option, value.strip('"')]
    text = OTHER_VALUES.get(key, '"/elsewhere"' if key.startswith("folders") else "60")
    in_file = {"output_dir": Path("/srv/output"), **read_settings(as_text(key, text)).values}
    assert options_of((), in_file) != changed(**changes)
    assert options_of(given, in_file) == changed(**changes)


def test_every_option_of_the_command_line_has_a_key() -> None:
    """What the command line may say, the file may; but for what is about the file, or about nothing."""
    options = {action.option_strings[-1] for action in new_parser()._actions}
    apart = {"--help", "--version", "--config", "--check-config"}
    assert options - apart == {setting.option for setting in SETTINGS}
    assert {field.name for field in fields(ServerOptions)} - {"policy", "terms"} == {
        name for _, changes in KEYS.values() for name in changes
    } | {"limits"}


def test_all_keys_at_once() -> None:
    """A file with every key and clients of its own loads, is written, and loads to the same again."""
    top = [f"{key} = {value}" for key, (value, _) in KEYS.items() if "." not in key]
    rest = [f"{key} = {value}" for key, (value, _) in KEYS.items() if "." in key]
    text = "\n".join([*top, *rest, 'clients.a-b.role = "admin"', 'clients."1" = {role = "user"}'])
    options = loaded(text)
    assert options.policy == OTHERS
    assert loaded(render(options)) == options
    assert tomllib.loads(render(options))


# --- clients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "verbose = true", "# [clients]"])
def test_without_clients(text: str) -> None:
    """A file without a table of clients leaves those that are built in."""
    assert read_settings(text).policy is None
    assert loaded(text).policy == DEFAULT_POLICY


def test_the_table_of_clients_keys_is_whole() -> None:
    """It has every key of a client, so that the next test does."""
    assert {"role", *KEYS_OF_CLIENT} == set(CLIENT_KEYS)


@pytest.mark.parametrize("key", KEYS_OF_CLIENT)
def test_each_key_of_a_client(key: str) -> None:
    """It changes the terms of that client alone, and what is in force is written as a file that says the same."""
    value, terms = KEYS_OF_CLIENT[key]
    rate = "start_rate = 60\n" if key == "start_burst" else ""
    table, _, name = key.rpartition(".")
    head = f"[clients.a-b.{table}]\n" if table else ""
    text = f'[clients.1]\nrole = "user"\n[clients.a-b]\nrole = "admin"\n{rate}{head}{name} = {value}\n'
    options = loaded(text)
    assert options == changed(policy=OTHERS, terms={"a-b": terms})
    assert loaded(render(options)).terms == options.terms


def test_all_keys_of_a_client_at_once() -> None:
    """Together they load, are written, and load to the same again."""
    keys = "\n".join(f"clients.bob.{key} = {value}" for key, (value, _) in KEYS_OF_CLIENT.items())
    options = loaded(f'{keys}\nclients.bob.role = "user"\nclients.ann.role = "admin"\n')
    assert options.terms.keys() == {"bob"}
    assert loaded(render(options)).terms == options.terms


def test_nobody() -> None:
    """A table of clients with none in it lets nobody in: those that are built in are not named there."""
    assert loaded("[clients]").policy == Policy(identities=frozenset())


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_jobs = 5", "unknown key max_jobs"),
        ("memory_max = 5", "unknown key memory_max: did you mean limits.memory_max?"),
        ("[limit]\ncpu_max = 1", "unknown key limit.cpu_max: did you mean limits.cpu_max?"),
        ("[limits]\nmemmory_max = 1", "unknown key limits.memmory_max: did you mean limits.memory_max?"),
        ("[limits.cpu_max]\nx = 1", "unknown key limits.cpu_max.x: did you mean limits.cpu_max?"),
        ("[folder]", "unknown key folder: did you mean folders?"),
        ("limits = 5", "limits is a whole number: a table, [limits], is needed"),
        ("[[limits]]\ncpu_max = 1", "limits is a list: a table, [limits], is needed"),
        ("listen = 6443", "listen is a whole number: text in quotes is needed"),
        ('listen = "6443"', "listen: '6443' is not HOST:PORT"),
        ('verbose = "yes"', "verbose is text: true or false is needed"),
        ("verbose = 1", "verbose is a whole number: true or false is needed"),
        ("[limits]\npids_max = true", "limits.pids_max is true or false: a whole number"),
        ("[limits]\npids_max = 0", "limits.pids_max: pids_max must be from 1"),
        ("[limits]\ncpu_max = 0.001", "limits.cpu_max: cpu_max must be from 0.01"),
        ("[limits]\ncpu_max = nan", "limits.cpu_max: 'nan' is not a number of cores"),
        ("[limits]\nmemory_max = 1.5", "limits.memory_max is a number with decimals: a number of bytes"),
        ("[limits]\nio_read_bps = 0", "limits.io_read_bps: read_bps must be from 1"),
        ("[limits]\nmemory_max = 0xFFFFFFFFFFFFFFFFFFFFFFFF", "limits.memory_max: the number is too large"),
        ('[output]\nfree = "95%"', "output.free: '95%' is not a share of a disk from 0% to 90%"),
        ("[jobs]\nmax = 2024-01-01", "jobs.max is a date or time: a whole number is needed"),
        ("[jobs]\nmax = [1]", "jobs.max is a list: a whole number is needed"),
        ("[jobs]\nmax = 0", "jobs.max: '0' is not a number of jobs from 1 to 100000"),
        ("[jobs]\ngrace = inf", "jobs.grace: 'inf' is not a number of seconds"),
        ('[jobs]\noom_policy = "nobody"', "jobs.oom_policy is 'nobody': one of 'job', 'process' is needed"),
        ('[jobs]\nrun_as = "a\\u0000b"', "jobs.run_as is 'a\\x00b': no control characters may be in it"),
        ('[jobs]\nrun_as = "\\u001b[31m"', "jobs.run_as is '\\x1b[31m': no control characters"),
        ('[folders]\noutput = "relative"', "folders.output is 'relative': an absolute path in quotes is needed"),
        ('[folders]\ncertificates = ""', "folders.certificates is '': an absolute path"),
        ("clients = 5", "clients is a whole number: a table, [clients.NAME] with role"),
        ('clients.bob = "user"', "clients.bob is text: a table, [clients.NAME] with role"),
        ("[clients.bob]", 'clients.bob.role is missing: "user" or "admin" is needed'),
        ("[clients.bob]\nrole = 5", 'clients.bob.role is a whole number: "user" or "admin" is needed'),
        ('[clients.bob]\nrole = "root"', 'clients.bob.role is \'root\': "user" or "admin" is needed'),
        ('[clients.bob]\nroll = "user"', "unknown key clients.bob.roll: did you mean clients.bob.role?"),
        (
            '[clients.bob]\nrole = "user"\nrun_at = "root"',
            "unknown key clients.bob.run_at: did you mean clients.bob.run_as?",
        ),
        (
            '[clients.bob]\nrole = "user"\nmax_job = 1',
            "unknown key clients.bob.max_job: did you mean clients.bob.max_jobs?",
        ),
        ('[clients.bob]\nrole = "user"\nmax_jobs = 0', "clients.bob.max_jobs: '0' is not a number of jobs from 1"),
        ('[clients.bob]\nrole = "user"\nmax_jobs = "5"', "clients.bob.max_jobs is text: a whole number is needed"),
        ('[clients.bob]\nrole = "user"\nstart_rate = 0', "clients.bob.start_rate: '0' is not a number of starts"),
        (
            '[clients.bob]\nrole = "user"\nstart_burst = 5',
            "clients.bob.start_burst is of no effect without a start_rate",
        ),
        ("[clients.bob]\nmax_jobs = 5", 'clients.bob.role is missing: "user" or "admin" is needed'),
        (
            '[clients.bob]\nrole = "user"\nlimits.cpu_max = 0.001',
            "clients.bob.limits.cpu_max: cpu_max must be from 0.01",
        ),
        ('[clients.bob]\nrole = "user"\nlimits.swap_max = "x"', "clients.bob.limits.swap_max: 'x' is not a size"),
        (
            '[clients.bob]\nrole = "user"\nlimits = 5',
            "unknown key clients.bob.limits: did you mean clients.bob.limits.",
        ),
        (
            '[clients.bob]\nrole = "user"\n[clients.bob.limits]\npid_max = 5',
            "unknown key clients.bob.limits.pid_max: did you mean clients.bob.limits.pids_max?",
        ),
        ('[client.bob]\nrole = "user"', "unknown key client.bob.role: did you mean clients.bob.role?"),
        ('[clients.Bob]\nrole = "user"', "clients.Bob: the name is not a client name: use 1 to 54 lower-case letters"),
        ('[clients."a b"]\nrole = "user"', 'clients."a b": the name is not a client name'),
        ("listen = \nverbose = true\n", "no TOML: Invalid value (at line 1, column 10)"),
        ("verbose = true\n[limits\n", "(at line 2, column 8)"),
        ("verbose = true\nverbose = true\n", "no TOML: Cannot overwrite a value (at line 2, column 15)"),
        (f"x = {'9' * 900}9", "unknown key x"),
        (f"x = {'[' * 1000}", "lists or tables are nested too deeply"),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    """A mistake is named with the full key, and the right one that is nearest, or the line."""
    assert said in mistakes_of(text)


def test_many_digits() -> None:
    """A number that nothing could be is a mistake as others are."""
    assert "jobs.max: the number is too large" in mistakes_of(f"[jobs]\nmax = {'9' * 900}")
    assert "jobs.max: the number is too large" in mistakes_of(f"[jobs]\nmax = 0x{'f' * 1000}")


def test_mistakes_are_bounded() -> None:
    """Of very many mistakes some are named, and each is cut, and no key or value brings more than text to a terminal."""
    text = "".join(f'"\\u001b]0;{number}{"x" * 900}" = 1\n' for number in range(50))
    said = mistakes_of(text)
    assert said.endswith("; and 45 more mistakes")
    assert len(said) < 1000
    assert said.isprintable()


def test_a_long_key() -> None:
    """The dots of a line are bounded, since a key of many takes time with their square."""
    assert mistakes_of(f"\n{'a.' * 1000}a = 1") == "line 2 has more than 200 dots"


def test_a_long_path() -> None:
    """What is written of a path with many characters that are not ASCII loads again."""
    path = "/" + "/".join(["ü" * 120] * 8)
    options = loaded(f'[folders]\naudit = "{path}"\n')
    assert options.audit_folder == Path(path)
    assert loaded(render(options)) == options


def test_a_file_that_is_as_bad_as_it_can_be() -> None:
    """The deepest keys that a file may have are refused before anybody could think that the server hangs."""
    line = ".".join("a" * 200) + " = 1"
    assert "mistake" in mistakes_of("\n".join(f"{n}.{line}" for n in range(LARGEST_FILE // (len(line) + 5))))


# --- the example ------------------------------------------------------------------------------------------------------


def test_the_example_changes_nothing() -> None:
    """As it stands, with every key in a comment, it leaves the defaults."""
    assert loaded(EXAMPLE.read_text()) == DEFAULTS


def test_the_example_has_every_key() -> None:
    """Without its comment signs it has every key, the built-in clients, and the defaults where they can be told."""
    text = re.sub(r"^#(?=[a-z\[])", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    assert set(CLIENT_KEYS) <= set(re.findall(r"^[#\s]*([a-z_.]+) =", text, re.MULTILINE))
    settings = read_settings(text)
    assert sorted(settings.keys.values()) == sorted(BY_KEY)
    assert settings.policy == DEFAULT_POLICY
    options = options_of((), settings.values, settings.policy)
    expected = replace(
        DEFAULTS,
        output_folder=Path("/var/lib/jobmaster"),
        audit_folder=Path("/var/lib/jobmaster/audit"),
        certificates=Path("/etc/jobmaster/certs"),
        cgroup_root=Path("/sys/fs/cgroup/jobmaster"),
        run_as="nobody",
        uid_range=DEFAULT_UID_RANGE,
        io_device="254:0",
        output_free=FreeSpace(percent=5),
        work_folder=Path("/var/lib/jobmaster-work"),
        work_free=FreeSpace(percent=5),
    )
    assert options == expected
