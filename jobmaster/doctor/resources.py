"""Limits of a process that is started from here: open files and processes."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobmaster.host.cgroup.mounts import PROC
from jobmaster.server.descriptors import fewest_descriptors, plan_descriptors
from jobmaster.server.findings import Finding, Verdict

if TYPE_CHECKING:
    from pathlib import Path

_OF_SHELL: Final = "(of this shell; a unit has its own)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What was seen.

    Attributes:
        open_files: the hard RLIMIT_NOFILE, to which a server raises its own.
        processes: the soft RLIMIT_NPROC, of each user; None: no limit.
        pids: processes and threads that the kernel gives numbers to (kernel.pid_max).
    """

    open_files: int
    processes: int | None
    pids: int


def look_at_resources(proc: Path = PROC) -> Resources:
    """Looks at this process's.

    Raises:
        OSError: the kernel's bound can't be read.
    """
    processes, _hard = resource.getrlimit(resource.RLIMIT_NPROC)
    return Resources(
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        processes=None if processes == resource.RLIM_INFINITY else processes,
        pids=int((proc / "sys" / "kernel" / "pid_max").read_text()),
    )


def of_open_files(found: Resources, *, jobs: int, of_job: int, connections: int) -> Finding:
    """How many jobs and connections the open files are enough for, of those that are wanted."""
    fewest = fewest_descriptors(of_job=of_job)
    text = f"the limit of {found.open_files} open files {_OF_SHELL}"
    if found.open_files < fewest:
        remedy = f"a server needs {fewest} at least: LimitNOFILE= of the unit, or ulimit -n"
        return Finding(topic="open files", verdict=Verdict.MISSING, text=f"{text} is too low", remedy=remedy)
    plan = plan_descriptors(found.open_files, jobs=jobs, of_job=of_job, connections=connections)
    text = f"{text} allows {plan.jobs} jobs and {plan.connections} connections at a time"
    if plan.warning is None:
        return Finding(topic="open files", verdict=Verdict.OK, text=text)
    remedy = f"for {jobs} and {connections}, raise LimitNOFILE= of the unit, or ulimit -n"
    return Finding(topic="open files", verdict=Verdict.WARNING, text=text, remedy=remedy)


def of_processes(found: Resources, *, jobs: int) -> Finding:
    """Whether so many jobs can have a process each."""
    most = min(found.pids, found.pids if found.processes is None else found.processes)
    which = "kernel.pid_max" if most == found.pids else f"ulimit -u {_OF_SHELL}"
    text = f"{most} processes and threads at a time, by {which}"
    if most <= jobs:
        remedy = f"raise it above the {jobs} jobs of --max-jobs, each of which has one at least"
        return Finding(topic="processes", verdict=Verdict.WARNING, text=text, remedy=remedy)
    return Finding(topic="processes", verdict=Verdict.OK, text=text)
