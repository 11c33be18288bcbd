"""The server program: from its options to its exit.

The nesting in `serve` is the order of the shutdown, from the inside out: accepting ends, the jobs end (with grace),
the followers have their last bytes and the connections end, the launcher is told, the cgroups are removed.

Signals are received from the first line of `jobmaster.server.__main__` to the end of the process: one that comes before
the server is ready ends it as soon as it can, one that comes when it has ended changes nothing.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
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
from jobmaster.host.cgroup.interface import GONE, CgroupFileError
from jobmaster.host.cgroup.lock import take_lock
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.identity.policy import DEFAULT_POLICY
from jobmaster.run.launcher import Launcher, attached_launcher, inherited_launcher, use_launcher
from jobmaster.run.local import DESCRIPTORS_OF_JOB, LocalHost, clear_leftovers
from jobmaster.run.registry import Bounds, Registry, open_registry
from jobmaster.server import preparation
from jobmaster.server.collector import collect_cycles
from jobmaster.server.descriptors import plan_descriptors, raise_file_limit, require_descriptors
from jobmaster.server.listener import Admission, ConnectionLimits, Listener, open_listeners
from jobmaster.server.log import STDERR, open_log, write_within
from jobmaster.server.options import ServerOptions, parse
from jobmaster.server.signals import END_SIGNALS, SignalsReceived, ignore_signals
from jobmaster.threads import thread_needed

LOCK_SECONDS: Final = 5.0
"""How long a new server waits for an old one's launcher to end its jobs."""
FOLLOWER_SECONDS: Final = 10.0
"""How long, at the server's end, followers may take for the bytes they have not received yet."""
LAST_WORD_SECONDS: Final = 2.0
"""How long a connection may take for the status of calls that were given up."""
STDERR_SECONDS: Final = 1.0
"""How long stderr may take for what the program says at its end."""


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
        write_within(STDERR, f"jobmaster: {error}\n".encode(errors="backslashreplace"), seconds=STDERR_SECONDS)
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
    with trio.open_signal_receiver(*END_SIGNALS) as signals, ExitStack() as listening:
        certificates = _certificates(options)
        context = server_context(certificates)
        listeners = await _listen(options.host, options.port)  # where that fails, no cgroup has been made
        for each in listeners:
            listening.callback(each.socket.close)  # where nothing comes to serve them
        prepared = preparation.prepare(options)
        plan = plan_descriptors(
            raise_file_limit(),
            jobs=options.max_jobs,
            of_job=DESCRIPTORS_OF_JOB,
            connections=ConnectionLimits().total,
        )
        port: int = listeners[0].socket.getsockname()[1]
        async with (
            hold_launcher(prepared.terms.tree) as launcher,
            open_registry(
                LocalHost(prepared.terms, launcher),
                grace_seconds=options.grace_seconds,
                bounds=Bounds(running=plan.jobs),
            ) as registry,
        ):
            api = Api(registry, most_followers=plan.followers)
            dispatcher = Dispatcher(services=api.services, status_of=status_of)
            limits = ConnectionLimits(total=plan.connections)
            listener = Listener(Admission(context=context, policy=DEFAULT_POLICY, dispatcher=dispatcher), limits)
            for line in (f"jobmaster {__version__}", *prepared.report, *filter(None, [plan.warning])):
                _say(line)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(_fail_when_lost, launcher)
                    await accepting.start(listener.serve, listeners, connections)
                    if not early:
                        _say(f"ready on {_address(options.host, port)}")
                        task_status.started(port)
                        await anext(signals)
                    accepting.cancel_scope.cancel()
                await _end_jobs(api, registry, signals)
                await _end_connections(listener)
                connections.cancel_scope.cancel()
        prepared.terms.tree.dispose()


@asynccontextmanager
async def hold_launcher(tree: CgroupTree) -> AsyncIterator[Launcher]:
    """The launcher that started this process, or one of its own; it holds the lock of the jobs' folder too.

    First, what an earlier server left is ended.

    Raises:
        ConfigurationError: another server has this folder.
    """
    lock = await _take_lock(tree)
    try:
        await clear_leftovers(tree)
        kill = os.open(tree.kill_all_path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            async with AsyncExitStack() as stack:
                socket = inherited_launcher()
                if socket is None:
                    socket = await stack.enter_async_context(attached_launcher())
                yield await stack.enter_async_context(use_launcher(socket, kill_fd=kill, lock_fd=lock))
        finally:
            os.close(kill)
    finally:
        os.close(lock)


async def _take_lock(tree: CgroupTree) -> int:
    with trio.move_on_after(LOCK_SECONDS):
        while (lock := _try_lock(tree)) is None:  # noqa: ASYNC110  # flock(2) tells by no event
            await trio.sleep(0.05)
        return lock
    raise ConfigurationError(
        f"another jobmaster server has the cgroup {tree.jobs}; give this one its own --cgroup-root"
    )


def _try_lock(tree: CgroupTree) -> int | None:
    try:
        tree.prepare()  # where an old server has just removed the folder
    except CgroupFileError as error:
        if error.errno not in GONE:
            raise
        return None
    return take_lock(tree.jobs)


async def _fail_when_lost(launcher: Launcher) -> None:
    await launcher.lost.wait()
    raise HostError("the launcher is lost, and with it the jobs' main processes: the server cannot go on")


async def _end_jobs(api: Api, registry: Registry, signals: AsyncIterator[int]) -> None:
    api.drain()
    async with trio.open_nursery() as ending:
        ending.start_soon(_hurry_when_told_again, signals, registry)
        await registry.drain()
        ending.cancel_scope.cancel()
    api.end_streams()


async def _hurry_when_told_again(signals: AsyncIterator[int], registry: Registry) -> None:
    await anext(signals)
    registry.hurry()


async def _end_connections(listener: Listener) -> None:
    listener.shut_down()
    with trio.move_on_after(FOLLOWER_SECONDS):
        await listener.wait_empty()
    listener.give_up_calls()
    with trio.move_on_after(LAST_WORD_SECONDS):
        await listener.wait_empty()


def _address(host_name: str, port: int) -> str:
    return f"[{host_name}]:{port}" if ":" in host_name else f"{host_name}:{port}"


async def _listen(listen_host: str, port: int) -> list[trio.SocketListener]:
    try:
        with thread_needed():  # to look the host up
            return await open_listeners(listen_host, port)
    except OSError as error:
        remedy = (
            "another program has the port; name another with --listen"
            if error.errno == errno.EADDRINUSE
            else ("name an address of this host with --listen")
        )
        raise ConfigurationError(
            f"cannot listen on {listen_host}:{port}: {error.strerror or error}; {remedy}"
        ) from None


def _certificates(options: ServerOptions) -> Path:
    """The certificate folder; the default one is made at first start."""
    folder = certificate_folder(options.certificates)
    if options.certificates is None and not certificate_path(folder, SERVER).exists():
        authority.initialise(folder)
        _say(f"made new certificates in {folder}; try: jobmaster --certs-dir {folder} -n client1 start ls -l /etc")
    return folder


def _say(line: str) -> None:
    """Writes a line to stdout, which from the first failure on is /dev/null: a full disk, a reader that has left."""
    try:
        print(line, flush=True)  # noqa: T201  # what this program says on stdout
    except OSError:
        with open(os.devnull, "wb") as null:  # noqa: ASYNC230, PTH123  # never waits
            os.dup2(null.fileno(), sys.stdout.fileno())
