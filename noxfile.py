"""The sessions that check, show and measure jobmaster; plain `nox` runs all that a change has to pass.

Facts about Python and the packages live in pyproject.toml. A session that needs programs of the distribution
installs Debian's packages itself when it may (root, apt-get) and otherwise names the one command that does.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests", "versions", "kernel"]
nox.options.reuse_venv = "yes"

PYPROJECT = nox.project.load_toml("pyproject.toml")
CODE = ("jobmaster", "tests", "noxfile.py")
GENERATED = (Path("jobmaster/jobs/v1"), Path("jobmaster/standard"))

# flake8-async's own optional rules, which naming any code to disable would switch on; ASYNC128, which does not see a
# task_status that is handed on to who calls started(); and ASYNC300, as nothing here makes a task of asyncio's.
ASYNC_DISABLED = "ASYNC128,ASYNC300,ASYNC900,ASYNC910,ASYNC911,ASYNC912,ASYNC913"
# Tests wait for what the kernel tells by no event, and start programs that live as long as a block.
ASYNC_DISABLED_IN_TESTS = f"{ASYNC_DISABLED},ASYNC110,ASYNC121,ASYNC220"

# What a file has in which any rule of flake8-async can find something: asynchronous code, or what catches Cancelled.
ASYNC_WORDS = re.compile(r"async|await|trio|nursery|BaseException|ExceptionGroup|except\s*[:*]")

# The newest grpcurl that Debian 12's Go 1.19 builds; newer Go builds it as well.
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.1"

# trio-typing's stubs and the mypy that can read them are older than Trio's own types and today's typeshed. What they
# are wrong about is left out: new names and type parameters, narrowing, and a certificate's type in certs.contexts.
TRIO_TYPING_CONFIG = """\
[mypy]
plugins = trio_typing.plugin
ignore_missing_imports = True
disable_error_code = attr-defined, import-untyped, name-defined, return, return-value, type-arg, union-attr
[mypy-jobmaster.certs.contexts]
ignore_errors = True
"""

H2SPEC = "github.com/summerwind/h2spec/cmd/h2spec"  # its version is pinned by tests/h2spec/go.mod

SSLYZE = "sslyze==6.3.1"  # it holds cryptography back, and so has an environment of its own

# Where a Debian package is told by a program it brings: {program: package}.
TESTS_NEED = {"ip": "iproute2", "openssl": "openssl", "testssl": "testssl.sh", "tmux": "tmux", "vi": "vim-tiny"}
GO_NEEDS = {"go": "golang-go", "update-ca-certificates": "ca-certificates"}
KERNEL_NEEDS = {
    "dmsetup": "dmsetup",
    "ip": "iproute2",  # brings the guest's loopback up
    "linux.uml": "user-mode-linux",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "modprobe": "kmod",
    "openssl": "openssl",
    "setpriv": "util-linux",
}


# Each test has a cgroup root, ports and folders of its own, and a third of its time it waits for what others do. So there
# is one worker more than the two cores that are reckoned with; stalls are held against a process's own CPU time.
PARALLEL = ("-n", "3", "--dist", "worksteal")

# What is below tests/ and no unit: it starts servers, attacks them or measures them, or tests these sessions' programs.
NOT_UNITS = {"abuse", "bench", "faults", "fuzz", "h2spec", "integration", "kernel", "scale", "tls"}
NOT_UNITS |= {"test_cancellation.py", "test_leaks.py", "test_machine.py", "test_mutants.py"}
NOT_UNITS |= {"test_proto_drift.py", "test_readme.py", "test_skips.py"}
MAIN_JOB = "tests/integration/test_jobs.py"
# Processes that are killed again and again, which takes longest of all units.
KILLED = (
    "tests/audit/test_killed.py",
    "tests/journal/test_killed.py",
    "tests/run/test_inherited.py::test_servers_killed_at_random",
    "tests/run/test_stdin.py::test_servers_killed_at_any_moment",
)
# Units that show the same on any Python: those; servers and launchers that follow each other, whose parts other units run;
# many random cases of what decides by itself; and the code read as text.
OF_ANY_VERSION = (
    *(each for each in KILLED if not each.startswith("tests/run/test_inherited.py")),
    *("tests/run/test_inherited.py", "tests/run/test_renewal.py", "tests/run/test_property.py"),
    *("tests/audit/test_reading.py::test_a_disk_that_changes_bytes", "tests/test_architecture.py"),
    "tests/doctor/test_hosts.py::test_an_ordinary_user",  # who may not be able to enter where these Pythons are
    "tests/identity/test_certificate.py::test_mutated_certificate",
)
FEW_CASES = {"INDEX_EXAMPLES": "10", "LOG_EXAMPLES": "10"}

LATER_PYTHONS = ("3.12", "3.13")


def groups(*names: str) -> tuple[str, ...]:
    """The requirements of these dependency groups of pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def absent(needs: dict[str, str]) -> list[str]:
    """The packages of those programs that are not found, the folders of root's programs included."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return [package for program, package in needs.items() if shutil.which(program, path=path) is None]


def install_debian(session: nox.Session, packages: list[str]) -> None:
    """Install Debian packages, or end the session with the command that would."""
    if not packages:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        session.error(f"packages of Debian or Ubuntu are missing; install them with: sudo {' '.join(install)}")
    session.run("apt-get", "update", "-q", external=True)
    session.run(*install, external=True, env={"DEBIAN_FRONTEND": "noninteractive"})


def kernel_needs() -> dict[str, str]:
    """What guests need, on a processor with AMX a compiler for `tests/kernel/registers.c`."""
    has_amx = " amx_tile " in Path("/proc/cpuinfo").read_text()
    return KERNEL_NEEDS | ({"cc": "gcc"} if has_amx else {})


def provide_grpcurl(session: nox.Session) -> list[str]:
    """Build grpcurl into nox's cache where the host has none; the folders in which it is looked for, after PATH."""
    built = session.cache_dir / "grpcurl"
    own = [os.environ.get("GOBIN", ""), str(Path.home() / "go" / "bin"), str(built.resolve())]
    if shutil.which("grpcurl", path=os.pathsep.join([os.environ["PATH"], *filter(None, own)])) is None:
        install_debian(session, absent(GO_NEEDS))
        environment = {"GOBIN": str(built.resolve()), "CGO_ENABLED": "0"}  # no C compiler asked for
        session.run("go", "install", GRPCURL, external=True, env=environment)
    return [*filter(None, own)]


def provide_h2spec(session: nox.Session) -> str:
    """Build h2spec into nox's cache; its folder there."""
    install_debian(session, absent(GO_NEEDS))
    built = (session.cache_dir / "h2spec").resolve()
    build = ["go", "build", "-o", str(built / "h2spec"), H2SPEC]
    where = ["env", "-C", "tests/h2spec"]  # whose go.mod pins it; only newer Go takes a folder itself
    session.run(*where, *build, external=True, env={"CGO_ENABLED": "0"})
    return str(built)


def provide_sslyze(session: nox.Session) -> str:
    """Install sslyze into an environment in nox's cache; the folder of its programs."""
    folder = (session.cache_dir / "sslyze").resolve()
    if not (folder / "bin" / "sslyze").exists():
        session.run("python", "-m", "venv", "--clear", str(folder))
        session.run(str(folder / "bin" / "python"), "-m", "pip", "install", "-q", SSLYZE, external=True)
    return str(folder / "bin")


def provide_programs(session: nox.Session) -> None:
    """Put what the tests of any host run on PATH, while the packages are installed."""
    install_debian(session, absent(TESTS_NEED | GO_NEEDS))
    with ThreadPoolExecutor() as pool:
        sslyze = pool.submit(provide_sslyze, session)
        packages = pool.submit(session.install, "-e", ".", *groups("tests", "proto", "bench"))
        h2spec, grpcurl = provide_h2spec(session), provide_grpcurl(session)
        packages.result()
        session.env["PATH"] = os.pathsep.join([h2spec, os.environ["PATH"], *grpcurl, sslyze.result()])


def units(*, without: Iterable[str]) -> list[str]:
    """Pytest's arguments for the tests that need no server, but for those."""
    found = [path for path in Path("tests").iterdir() if path.is_dir() or path.match("test_*.py")]
    paths = {str(path) for path in found if path.name not in NOT_UNITS and not path.name.startswith("__")}
    return [*sorted(paths - {*without}), *(f"--{'deselect' if '::' in each else 'ignore'}={each}" for each in without)]


def interpreter(version: str) -> str | None:
    """A Python of this version that runs: on PATH or one of pyenv's, whose shims on PATH may run none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    return None


def may_be_async(file: Path) -> bool:
    """Whether flake8-async has to read this file, which takes it long."""
    return file.parent not in GENERATED and ASYNC_WORDS.search(file.read_text()) is not None


def compile_code(session: nox.Session, python: str = "python") -> None:
    """Compile what hundreds of servers and clients of the tests import, also where Python was told to keep no bytecode.

    What pytest makes of the tests themselves it keeps then, too.
    """
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.run(python, "-m", "compileall", "-q", "-x", "/test_", "jobmaster", "tests", external=python != "python")


def check_style(session: nox.Session) -> None:
    """Run ruff and flake8-async."""
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)
    shares = []
    for folder, disabled in (("jobmaster", ASYNC_DISABLED), ("tests", ASYNC_DISABLED_IN_TESTS)):
        files = [str(file) for file in sorted(Path(folder).rglob("*.py")) if may_be_async(file)]
        options = [
            "--startable-in-context-manager=run,_run,_obey,_work,serve,start,write_until_closed",
            f"--disable={disabled}",
        ]
        shares += [[*options, *files[start::2]] for start in range(2)]
    with ThreadPoolExecutor(2) as pool:  # a process each: it knows no jobs of its own
        list(pool.map(lambda share: session.run("python", "-m", "tests.async_lint", *share), shares))


def check_types(session: nox.Session) -> None:
    """Run mypy."""
    session.run("mypy")
    session.run("mypy", "noxfile.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the use of Trio."""
    session.install(*groups("lint"))
    check_style(session)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, with the types that Trio itself ships."""
    session.install("-e", ".", *groups("types"))
    check_types(session)


@nox.session
def quick(session: nox.Session) -> None:
    """Check style and types, run the units and the main job against a real server: for use between changes."""
    session.install("-e", ".", *groups("lint", "types", "tests"))
    with ThreadPoolExecutor(1) as pool:
        types_checked = pool.submit(check_types, session)
        check_style(session)
        types_checked.result()
    compile_code(session)
    session.run("python", "-m", "pytest", "-m", "not kernel", *PARALLEL, *units(without=KILLED), MAIN_JOB)


@nox.session
def trio_typing(session: nox.Session) -> None:
    """Check with trio-typing's plugin what is passed on by Trio, to `start_soon` and its like."""
    config = Path(session.create_tmp()) / "mypy.ini"
    config.write_text(TRIO_TYPING_CONFIG)
    session.install("-e", ".", *groups("trio-typing"))
    session.run("mypy", "--config-file", str(config), "-p", "jobmaster")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests that any Linux host can run; arguments go to pytest."""
    provide_programs(session)
    compile_code(session)
    session.run("python", "-m", "pytest", "-m", "not kernel and not faults", *(session.posargs or PARALLEL))


@nox.session(venv_backend="none")
def versions(session: nox.Session) -> None:
    """Run the units on the newest of the later Pythons that are found here (`-- --all`: on each of them)."""
    found = {version: python for version in LATER_PYTHONS if (python := interpreter(version))}
    if not found:
        session.skip(f"none of Python {', '.join(LATER_PYTHONS)} is here")
    for version, base in list(found.items())[0 if session.posargs == ["--all"] else -1 :]:
        folder = (session.cache_dir / f"python{version}").resolve()
        python = str(folder / "bin" / "python")
        session.run(sys.executable, "-m", "virtualenv", "-q", "-p", base, str(folder), external=True)
        session.run(python, "-m", "pip", "install", "-q", "-e", ".", *groups("tests"), external=True)
        compile_code(session, python)
        options = ["-m", "not kernel and not faults", *PARALLEL, *units(without=OF_ANY_VERSION)]
        session.run(python, "-m", "pytest", "-p", "no:cacheprovider", *options, external=True, env=FEW_CASES)


@nox.session
def kernel(session: nox.Session) -> None:
    """Run what needs a real cgroup v2, and a job's life, in guests of User-Mode Linux; arguments: pytest's, in one."""
    if platform.machine() != "x86_64":
        session.error("Debian's User-Mode Linux is for x86-64 hosts")
    install_debian(session, absent(kernel_needs()))
    session.env["PATH"] = os.pathsep.join([os.environ["PATH"], *provide_grpcurl(session)])
    session.install("-e", ".", *groups("tests"))
    compile_code(session)
    session.run("python", "-m", "tests.kernel.machine", session.create_tmp(), *session.posargs)


@nox.session
def power(session: nox.Session) -> None:
    """Cut the power of a guest with a server under load, thrice (`-- --cuts 50`: more); try the unit under systemd."""
    if platform.machine() != "x86_64":
        session.error("Debian's User-Mode Linux is for x86-64 hosts")
    install_debian(session, absent(kernel_needs() | {"systemctl": "systemd"}))
    session.install("-e", ".", *groups("tests"))
    compile_code(session)
    session.run("python", "-m", "tests.kernel.machine", "--systemd", session.create_tmp(), "tests/kernel/systemd", "-s")
    options = ["-m", "power", "-s", "-o", "faulthandler_timeout=7200"]
    session.run("python", "-m", "pytest", *options, "tests/kernel/power", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill servers and launchers under load, a few times (`-- --kills 200`: often, and at each crash point; `--seed N`)."""
    session.install("-e", ".", *groups("tests"))
    compile_code(session)
    options = ["-m", "faults", "-s", "-o", "faulthandler_timeout=3600"]
    session.run("python", "-m", "pytest", *options, "tests/faults", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the code and see whether a test fails, in the packages that tests/mutants.py names; arguments go to that program."""
    session.install("-e", ".", *groups("tests"))
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Start a server, run jobs on it and tell what happens."""
    session.install(".")
    session.run("python", "tests/demo.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; arguments go to the benchmark."""
    session.install(".", *groups("bench"))
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session
def abuse(session: nox.Session) -> None:
    """Attack a server with ten thousand handshakes and a hundred thousand frames of each kind, and follow a gibibyte."""
    install_debian(session, absent({"ip": "iproute2", "openssl": "openssl"}))
    session.install("-e", ".", *groups("tests"))
    options = ["-s", "-o", "faulthandler_timeout=1200", "tests/abuse", "tests/integration/test_output_at_scale.py"]
    full_size = {"ABUSE_TRIES": "10000", "ABUSE_FRAMES": "100000", "OUTPUT_MIB": "1024"}
    session.run("python", "-m", "pytest", *options, *session.posargs, env=full_size)


@nox.session
def outputs(session: nox.Session) -> None:
    """Write 5 GiB under a cap of 64 MiB, and cut followers off fifty times; arguments go to pytest."""
    install_debian(session, absent({"openssl": "openssl"}))
    session.install("-e", ".", *groups("tests"))
    file = "tests/integration/test_output_at_scale.py"
    session.run("python", "-m", "pytest", "-s", *(session.posargs or [file]), env={"OUTPUTS_FULL": "1"})


@nox.session
def scale(session: nox.Session) -> None:
    """Measure ten thousand connections; arguments go to the program."""
    session.install(".", *groups("bench"))
    session.run("python", "-m", "tests.scale.connections", *session.posargs)


@nox.session
def proto(session: nox.Session) -> None:
    """Generate the protobuf code into the package, or below another folder with `-- --out FOLDER`."""
    arguments = argparse.ArgumentParser(prog="nox -s proto --")
    arguments.add_argument("--out", type=Path, default=Path())
    out: Path = arguments.parse_args(session.posargs).out
    out.mkdir(parents=True, exist_ok=True)
    session.install("-e", ".", *groups("proto"))  # the package brings purerpc's generator
    protos = sorted(map(str, Path("proto").rglob("*.proto")))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "purerpc")]
    session.run("python", "-m", "grpc_tools.protoc", "--proto_path=proto", *outputs, *protos)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz the server's side of HTTP/2, for a minute; options go to libFuzzer."""
    session.install("-e", ".", *groups("tests"), "atheris>=3.0")
    session.run("python", "-m", "tests.fuzz.fuzz_http2", *session.posargs)
