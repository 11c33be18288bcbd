"""The server program: from its options to its exit.

The nesting in `serve` is the order of the shutdown, from the inside out: accepting ends, the jobs end (with grace),
the followers have their last bytes and the connections end, the launcher is told, the cgroups are removed.

Signals are received from the first line of `jobmaster.server.__main__` to the end of the process: one that comes before
the server is ready ends it as soon as it can, one that comes when it has ended changes nothing.
"""

from __future__ import annotations

import enum
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NoReturn

import trio

from jobmaster import __version__
from jobmaster.api.services import Api
from jobmaster.api.statuses import status_of
from jobmaster.certs import authority
from jobmaster.certs.contexts import server_context
from jobmaster.certs.folder import SERVER, certificate_folder, certificate_path
from jobmaster.errors import ConfigurationError, HostError, JobmasterError
from jobmaster.grpc.server import Dispatcher
from jobmaster.identity.policy import DEFAULT_POLICY
from jobmaster.journal.journal import open_journal
from jobmaster.run.bounds import Bounds
from jobmaster.run.launcher import Launcher
from jobmaster.run.local import DESCRIPTORS_OF_JOB, LocalHost
from jobmaster.run.registry import Registry, open_registry
from jobmaster.server import preparation
from jobmaster.server.collector import collect_cycles
from jobmaster.server.descriptors import plan_descriptors, raise_file_limit, require_descriptors
from jobmaster.server.listener import Admission, ConnectionLimits, Listener
from jobmaster.server.log import STDERR, STDOUT, open_log, write_within
from jobmaster.server.options import ServerOptions, parse
from jobmaster.server.signals import END_SIGNALS, UPGRADE_SIGNAL, SignalsReceived, ignore_signals, receive_upgrades
from jobmaster.server.succession import HeldLauncher, hold_folders, listen, listeners_to_keep, own_launcher

JOURNAL: Final = "journal.db"
"""The journal's name in the output folder."""
logger = logging.getLogger(__name__)

FOLLOWER_SECONDS: Final = 10.0
"""How long, at the server's end, followers may take for the bytes they have not received yet."""
LAST_WORD_SECONDS: Final = 2.0
"""How long a connection may take for the status of calls that were given up."""
STREAM_SECONDS: Final = 1.0
"""How long stdout may take for a line, and stderr for what the program says at its end."""


def main(early: SignalsReceived = (), arguments: Sequence[str] | None = None) -> NoReturn:
    """The program: serves until it is told to end.

    Args:
        early: signals that came before there was an event loop.
        arguments: of the command line.
    """
    options = parse(sys.argv[1:] if arguments is None else arguments)
    open_log(verbose=options.verbose)
    status = _exit_status(options, early)
    ignore_signals()
    sys.exit(status)


def _exit_status(options: ServerOptions, early: SignalsReceived) -> int:
    status = 0
    try:
        require_descriptors(of_job=DESCRIPTORS_OF_JOB)  # Trio needs some as well
        trio.run(run, options, early)
    except* ConfigurationError as errors:
        status = _say_errors(2, errors)
    except* JobmasterError as errors:
        status = max(status, _say_errors(1, errors))
    return status


async def run(options: ServerOptions, early: SignalsReceived = ()) -> None:
    """As `serve`, with cycles collected at times of our choosing."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect_cycles)
        await serve(options, early=early)
        nursery.cancel_scope.cancel()


def _say_errors(status: int, errors: BaseExceptionGroup[BaseException]) -> int:
    for error in _leaves(errors):
        write_within(STDERR, f"jobmaster: {error}\n".encode(errors="backslashreplace"), seconds=STREAM_SECONDS)
    return status


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def serve(
    options: ServerOptions,
    *,
    early: SignalsReceived = (),
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP; `task_status` is told the port when it is ready.

    Args:
        options: of the server.
        early: signals that came before; where there are any, the server ends before it is ready.
        task_status: of Trio.

    Raises:
        ConfigurationError: an option is wrong, or this host cannot do what was asked.
        HostError: the host failed the server.
    """
    with trio.open_signal_receiver(*END_SIGNALS, UPGRADE_SIGNAL) as signals, ExitStack() as closing:
        receive_upgrades()
        certificates = _certificates(options)
        context = server_context(certificates)
        async with own_launcher() as held:
            launcher = held.launcher
            listeners = await listen(
                launcher, options.host, options.port, closing
            )  # where that fails, no cgroup is made
            port: int = listeners[0].socket.getsockname()[1]
            prepared = preparation.prepare(options)
            await hold_folders(launcher, prepared.terms.tree, options.output_folder, closing)
            plan = plan_descriptors(
                raise_file_limit(),
                jobs=options.max_jobs,
                of_job=DESCRIPTORS_OF_JOB,
                connections=ConnectionLimits().total,
            )
            async with (
                open_journal(options.output_folder / JOURNAL, synchronous=options.durability) as journal,
                open_registry(
                    LocalHost(prepared.terms, launcher),
                    journal,
                    grace_seconds=options.grace_seconds,
                    bounds=Bounds(running=plan.jobs, ended=options.keep_jobs, age=options.keep_for),
                    hands_over=held.can_hand_over,
                ) as registry,
            ):
                recovered = await registry.recover()
                api = Api(registry, most_followers=plan.followers)
                dispatcher = Dispatcher(services=api.services, status_of=status_of)
                limits = ConnectionLimits(total=plan.connections)
                listener = Listener(Admission(context=context, policy=DEFAULT_POLICY, dispatcher=dispatcher), limits)
                report = (*prepared.report, *filter(None, [plan.warning]), *recovered.report)
                for line in (f"jobmaster {__version__}", *report):
                    _say(line)
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        await accepting.start(listener.serve, listeners, connections)
                        ending = Ending.STOP
                        if not early:
                            launcher.say_ready(
                                listeners_to_keep(listeners, options.host, options.port),
                                max_gap=options.max_gap_seconds,
                                max_crashes=options.max_crashes,
                            )
                            _say(f"ready on {_address(options.host, port)}")
                            task_status.started(port)
                            ending = await _wait_for_end(signals, held)
                        accepting.cancel_scope.cancel()
                    await _end_jobs(ending, launcher, api, registry, signals)
                    await _end_connections(
                        listener, follower_seconds=0 if ending is Ending.HAND_OVER else FOLLOWER_SECONDS
                    )
                    connections.cancel_scope.cancel()
            if ending is Ending.HAND_OVER:
                await launcher.hand_over()
            else:
                prepared.terms.tree.dispose()
    if ending is Ending.LAUNCHER_LOST:
        raise HostError("the launcher is lost, and with it the jobs' main processes: the server cannot go on")
    if registry.unrecorded:
        raise HostError(f"the ends of {registry.unrecorded} jobs are not in the journal: they will be told as lost")


class Ending(enum.Enum):
    """How the server ends."""

    STOP = enum.auto()
    """With its jobs."""
    HAND_OVER = enum.auto()
    """Without them: the next server goes on."""
    LAUNCHER_LOST = enum.auto()
    """With them, and with an error."""


async def _wait_for_end(signals: AsyncIterator[int], held: HeldLauncher) -> Ending:
    ending = Ending.LAUNCHER_LOST
    async with trio.open_nursery() as nursery:

        async def wait_for_signal() -> None:
            nonlocal ending
            ending = await _next_ending(signals, held)
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_for_signal)
        await held.launcher.lost.wait()
        nursery.cancel_scope.cancel()
    return ending


async def _next_ending(signals: AsyncIterator[int], held: HeldLauncher) -> Ending:
    async for number in signals:
        if number != UPGRADE_SIGNAL:
            return Ending.STOP
        if held.can_hand_over():
            return Ending.HAND_OVER
        logger.warning("this server cannot hand its jobs over: start it with `python -m jobmaster.serve`")
    raise AssertionError("signals end with their receiver")


async def _end_jobs(
    ending: Ending, launcher: Launcher, api: Api, registry: Registry, signals: AsyncIterator[int]
) -> None:
    api.drain()
    if ending is Ending.HAND_OVER:
        await registry.hand_over()
    else:
        launcher.say_stopping()
        if ending is Ending.LAUNCHER_LOST:
            registry.hurry()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hurry_when_told_again, signals, registry)
            await registry.drain()
            nursery.cancel_scope.cancel()
    api.end_streams()


async def _hurry_when_told_again(signals: AsyncIterator[int], registry: Registry) -> None:
    async for number in signals:
        if number != UPGRADE_SIGNAL:
            registry.hurry()


async def _end_connections(listener: Listener, *, follower_seconds: float) -> None:
    listener.shut_down()
    with trio.move_on_after(follower_seconds):
        await listener.wait_empty()
    listener.give_up_calls()
    with trio.move_on_after(LAST_WORD_SECONDS):
        await listener.wait_empty()


def _address(host_name: str, port: int) -> str:
    return f"[{host_name}]:{port}" if ":" in host_name else f"{host_name}:{port}"


def _certificates(options: ServerOptions) -> Path:
    """The certificate folder; the default one is made at first start."""
    folder = certificate_folder(options.certificates)
    if options.certificates is None and not certificate_path(folder, SERVER).exists():
        authority.initialise(folder)
        _say(f"made new certificates in {folder}; try: jobmaster --certs-dir {folder} -n client1 start ls -l /etc")
    return folder


def _say(line: str) -> None:
    """Writes a line to stdout, which from the first failure on is /dev/null: a full disk, a reader that reads no more.

    A pipe that nobody reads is full after so many servers of one launcher, and the next one has to serve all the same.
    """
    if not write_within(STDOUT, f"{line}\n".encode(errors="backslashreplace"), seconds=STREAM_SECONDS):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, STDOUT)
        os.close(null)
