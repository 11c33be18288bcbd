"""The server program: from its options to its exit.

The nesting in `serve` is the order of the shutdown, from the inside out: what serves clients ends with or without the
jobs (`serving`), the journal is closed, the launcher is told or the cgroups are removed, the folders are unlocked.

Signals are received from the first line of `jobmaster.server.__main__` to the end of the process: one that comes before
the server is ready ends it as soon as it can, one that comes when it has ended changes nothing.
"""

from __future__ import annotations

import datetime
import os
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import trio

from jobmaster import __version__
from jobmaster.api.server_info import ServerFacts
from jobmaster.api.services import Api
from jobmaster.api.statuses import status_of
from jobmaster.audit.audit import Audit, open_audit
from jobmaster.audit.file import FileBounds
from jobmaster.audit.opening import AuditFolder
from jobmaster.certs import authority
from jobmaster.certs.contexts import ServerCredentials, server_context
from jobmaster.certs.folder import SERVER, certificate_folder, certificate_path
from jobmaster.certs.inspection import inspect
from jobmaster.ending import end
from jobmaster.errors import ConfigurationError, HostError, JobmasterError
from jobmaster.grpc.server import Dispatcher
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.journal.journal import open_journal
from jobmaster.run.bounds import Bounds
from jobmaster.run.launcher import Launcher
from jobmaster.run.local import DESCRIPTORS_OF_JOB, LocalHost
from jobmaster.run.registry import Registry, open_registry
from jobmaster.server import checking, preparation
from jobmaster.server.clock import RunningTimeClock
from jobmaster.server.collector import collect_cycles
from jobmaster.server.configuration import Configuration
from jobmaster.server.descriptors import DescriptorPlan, plan_descriptors, raise_file_limit, require_descriptors
from jobmaster.server.earlier_cgroup import end_earlier_jobs, end_what_is_left
from jobmaster.server.findings import as_report
from jobmaster.server.judgements import AUTHORITIES, of_certificate
from jobmaster.server.listener import DEFAULT_LIMITS, Admission, Listener
from jobmaster.server.log import open_log, say, say_error
from jobmaster.server.options import CommandLine, ServerOptions, parse_command_line
from jobmaster.server.reloading import Reloader, described, read_configuration
from jobmaster.server.serving import Ending, Serving
from jobmaster.server.signals import (
    END_SIGNALS,
    RELOAD_SIGNAL,
    UPGRADE_SIGNAL,
    SignalsReceived,
    ignore_signals,
    receive_held_signals,
)
from jobmaster.server.succession import (
    AddressInUse,
    HeldLauncher,
    hold_jobs,
    hold_spool,
    hold_state,
    listen,
    own_launcher,
    require_same_folder,
)
from jobmaster.threads import SPARE

JOURNAL: Final = "journal.db"
"""The journal's name in the output folder."""


def main(early: SignalsReceived = (), arguments: Sequence[str] | None = None) -> NoReturn:
    """The program: serves until it is told to end.

    Args:
        early: signals that came before there was an event loop.
        arguments: of the command line.
    """
    command = parse_command_line(sys.argv[1:] if arguments is None else arguments)
    open_log(verbose=command.verbose)
    status = checking.check(command) if command.only_checks else _exit_status(command, early)
    ignore_signals()
    end(status)


def _exit_status(options: CommandLine | ServerOptions, early: SignalsReceived) -> int:
    status = 0
    try:
        SPARE.keep()
        require_descriptors(of_job=DESCRIPTORS_OF_JOB)  # Trio needs some as well
        trio.run(run, options, early, clock=RunningTimeClock())
    except* ConfigurationError as errors:
        status = _say_errors(2, errors)
    except* JobmasterError as errors:
        status = max(status, _say_errors(1, errors))
    return status


def _say_errors(status: int, errors: BaseExceptionGroup[BaseException]) -> int:
    for error in _leaves(errors):
        say_error(f"jobmaster: {error}")
    return status


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


async def run(options: CommandLine | ServerOptions, early: SignalsReceived = ()) -> None:
    """As `serve`, with cycles collected at times of our choosing."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect_cycles)
        await serve(options, early=early)
        nursery.cancel_scope.cancel()


async def serve(
    options: CommandLine | ServerOptions,
    *,
    early: SignalsReceived = (),
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until SIGTERM or SIGINT; `task_status` is told the port when it is ready.

    Args:
        options: of the server; or the command line, whose file is read then, and again at SIGHUP.
        early: signals that came before; where there are any, the server ends before it is ready.
        task_status: of Trio.

    Raises:
        ConfigurationError: an option is wrong, or this host cannot do what was asked.
        HostError: the host failed the server.
    """
    with trio.open_signal_receiver(*END_SIGNALS, UPGRADE_SIGNAL, RELOAD_SIGNAL) as signals, ExitStack() as closing:
        receive_held_signals()
        open_files = raise_file_limit()
        async with own_launcher() as held:
            command = options if isinstance(options, CommandLine) else None
            configuration = await _configuration(options, held)
            options = configuration.options
            context = _context(options, held)
            only_ends_jobs = bool(early and held.launcher.inherited.predecessors)
            listeners = [] if only_ends_jobs else await _listen(options, held.launcher, closing)
            require_same_folder(held.launcher, options.output_folder)
            preparation.prepare_output_folder(options)
            state = await hold_state(held.launcher, options.output_folder, closing)
            prepared = preparation.prepare(
                options, open_files=open_files.of_job
            )  # after both: where another server has them, no cgroup is made
            spool = hold_spool(held.launcher, closing)
            await hold_jobs(held.launcher, prepared.terms.tree, state, closing, spool=spool)
            ended = await end_earlier_jobs(options.output_folder, prepared.terms.tree)
            plan = _plan(options, open_files.of_server)
            host = LocalHost(prepared.terms, held.launcher)
            async with _registry(options, host, plan, held, spool) as (registry, audit):
                recovered = await registry.recover()
                told = (described(command, configuration), *prepared.report, *_warnings(options))
                _say_all(f"jobmaster {__version__}", *told, plan.warning, ended, *recovered.report)
                facts = _facts(options, prepared, Bounds(running=plan.jobs))
                api = Api(registry, facts=facts, most_followers=plan.followers)
                listener = _listener(options, context, api, audit, plan)
                take_up = partial(_take_up, listener, registry, host, plan, api, facts)
                reloader = Reloader(command, configuration, take_up=take_up, settle=listener.end_untrusted)
                await reloader.keep()
                serving = Serving(
                    options=options,
                    held=held,
                    signals=signals,
                    registry=registry,
                    api=api,
                    listeners=listeners,
                    listener=listener,
                    reloader=reloader,
                )
                ending = await serving.serve(task_status, is_wanted=not early)
            if ending is Ending.HAND_OVER:
                ending = await hand_over(held.launcher, prepared.terms.tree)
            else:
                prepared.terms.tree.dispose()
    _require_good_end(ending, registry)


async def hand_over(launcher: Launcher, tree: CgroupTree) -> Ending:
    """Leaves the jobs to the next server, or ends what is left of them where the launcher has died meanwhile.

    Nobody else would: with the launcher only their main processes die. The next start records their ends.
    """
    await launcher.hand_over()
    await trio.lowlevel.checkpoint()  # what the launcher's end has brought is received
    if not launcher.lost.is_set():
        return Ending.HAND_OVER
    tree.kill_all()
    return Ending.LAUNCHER_LOST


async def _configuration(options: CommandLine | ServerOptions, held: HeldLauncher) -> Configuration:
    if isinstance(options, CommandLine):
        return await read_configuration(options, held.launcher)
    return Configuration(options=options, file=None)


def _context(options: ServerOptions, held: HeldLauncher) -> ssl.SSLContext:
    """The server's TLS; a server that follows another has jobs, which no certificate's expiry may cost their lives."""
    return server_context(_certificates(options), must_be_valid=not held.launcher.inherited.predecessors)


async def _listen(options: ServerOptions, launcher: Launcher, closing: ExitStack) -> list[trio.SocketListener]:
    """As `listen`; a job of an earlier server that was killed, and has the port, is ended first."""
    with suppress(AddressInUse):
        return await listen(launcher, options.host, options.port, closing)
    await end_what_is_left(options.output_folder, check=partial(preparation.prepare_output_folder, options))
    return await listen(launcher, options.host, options.port, closing)


def _certificates(options: ServerOptions) -> Path:
    """The certificate folder; the default one is made at first start."""
    folder = certificate_folder(options.certificates)
    if options.certificates is None and not certificate_path(folder, SERVER).exists():
        authority.initialise(folder)
        say(f"made new certificates in {folder}; try: jobmaster --certs-dir {folder} -n client1 start ls -l /etc")
    return folder


def _facts(options: ServerOptions, prepared: preparation.Prepared, bounds: Bounds) -> ServerFacts:
    """What clients may know of this server."""
    return ServerFacts(
        version=__version__,
        kernel=os.uname().release,
        enforcement=prepared.enforcement,
        max_jobs=bounds.running,
        max_jobs_of_client=bounds.running_of_client,
        output_max=options.output_max,
        grace_seconds=options.grace_seconds,
    )


def _warnings(options: ServerOptions) -> tuple[str, ...]:
    """What else the operator should see to: certificates that expire soon."""
    folder, now = certificate_folder(options.certificates), datetime.datetime.now(datetime.UTC)
    there = (who for who in (SERVER, *AUTHORITIES) if certificate_path(folder, who).exists())
    return as_report(of_certificate(inspect(folder, who, now), now) for who in there)


def _plan(options: ServerOptions, open_files: int) -> DescriptorPlan:
    return plan_descriptors(
        open_files, jobs=options.max_jobs, of_job=DESCRIPTORS_OF_JOB, connections=DEFAULT_LIMITS.total
    )


@asynccontextmanager
async def _registry(
    options: ServerOptions, host: LocalHost, plan: DescriptorPlan, held: HeldLauncher, spool: int
) -> AsyncIterator[tuple[Registry, Audit]]:
    """The jobs with their journal, and the audit, for the block; as of `open_registry`."""
    audit_folder = AuditFolder(
        path=options.audit,
        bounds=FileBounds(size=options.audit_size, kept=options.audit_files),
        prepare=partial(preparation.prepare_folder, "audit", options.audit),
        spool=spool,
    )
    is_first = not held.launcher.inherited.predecessors  # a later one has jobs, which no audit may cost their lives
    async with (
        open_journal(options.output_folder / JOURNAL, synchronous=options.durability) as journal,
        open_audit(audit_folder, journal, __version__, must_be_open=is_first) as audit,
        open_registry(
            host,
            journal,
            grace_seconds=options.grace_seconds,
            bounds=_bounds(options, plan),
            hands_over=held.can_hand_over,
        ) as registry,
    ):
        yield registry, audit


def _bounds(options: ServerOptions, plan: DescriptorPlan) -> Bounds:
    return Bounds(running=plan.jobs, ended=options.keep_jobs, age=options.keep_for, output=options.output_bounds)


def _listener(
    options: ServerOptions, context: ssl.SSLContext, api: Api, audit: Audit, plan: DescriptorPlan
) -> Listener:
    dispatcher = Dispatcher(services=api.services, status_of=status_of)
    admission = Admission(context=context, policy=options.policy, dispatcher=dispatcher, audit=audit)
    return Listener(admission, DEFAULT_LIMITS.within(plan.connections))


def _take_up(
    listener: Listener,
    registry: Registry,
    host: LocalHost,
    plan: DescriptorPlan,
    api: Api,
    facts: ServerFacts,
    options: ServerOptions,
    credentials: ServerCredentials,
) -> None:
    """Puts what a running server takes up of other options in force."""
    listener.take_up(credentials, options.policy)
    registry.take_up(_bounds(options, plan))
    host.terms = replace(host.terms, output_max=options.output_max)
    api.take_up(replace(facts, output_max=options.output_max))


def _say_all(*lines: str | None) -> None:
    for line in filter(None, lines):
        say(line)


def _require_good_end(ending: Ending, registry: Registry) -> None:
    if ending is Ending.LAUNCHER_LOST:
        raise HostError("the launcher is lost, and with it the jobs' main processes: the server cannot go on")
    if registry.unrecorded:
        raise HostError(f"the ends of {registry.unrecorded} jobs are not in the journal: they will be told as lost")
