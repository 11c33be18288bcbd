"""`python -m jobmaster.serve`: the server, from its options to its exit.

The nesting in `serve` is the order of the shutdown, from the inside out: accepting ends, the jobs end (with grace),
the followers have their last bytes and the connections end, the tether is let go, the cgroups are removed.
"""

from __future__ import annotations

import errno
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import trio

from jobmaster import __version__
from jobmaster.api.services import Api
from jobmaster.api.statuses import status_of
from jobmaster.certs import authority
from jobmaster.certs.contexts import server_context
from jobmaster.certs.folder import SERVER, certificate_folder, certificate_path
from jobmaster.errors import ConfigurationError, HostError
from jobmaster.grpc.server import Dispatcher
from jobmaster.host.tether import hold_tether, tell_when_lost
from jobmaster.identity.policy import DEFAULT_POLICY
from jobmaster.run.registry import Keeper, keep_jobs
from jobmaster.server import preparation as host
from jobmaster.server.collector import collect_cycles
from jobmaster.server.listener import Door, Listener, open_listeners
from jobmaster.server.options import ServerOptions, parse

FOLLOWER_SECONDS: Final = 10.0
"""How long, at the server's end, followers may take for the bytes they have not received yet."""
LAST_WORD_SECONDS: Final = 2.0
"""How long a connection may take for the status of calls that were given up."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The program: serves until it is told to end."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    sys.exit(run(options))


def run(options: ServerOptions) -> int:
    """Serves until it is told to end; the exit status, after the last words of what went wrong.

    No SystemExit is raised inside `except*`: Debian 12's Python 3.11.2 wraps it in a group and shows a traceback.
    """
    status = 0
    try:
        trio.run(_run, options)
    except* ConfigurationError as errors:
        _report(errors)
        status = 2
    except* HostError as errors:
        _report(errors)
        status = status or 1
    return status


async def _run(options: ServerOptions) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect_cycles)
        await serve(options)
        nursery.cancel_scope.cancel()


def _report(errors: BaseExceptionGroup[BaseException]) -> None:
    for error in _leaves(errors):
        print(f"jobmaster: {error}", file=sys.stderr)  # noqa: T201  # a program's last words


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def serve(options: ServerOptions, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
    """Serves until SIGTERM or SIGINT; `task_status` is told the port when it is ready.

    Raises:
        ConfigurationError: an option is wrong, or this host cannot do what was asked.
        HostError: the host failed the server.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        certificates = _certificates(options)
        context = server_context(certificates)
        prepared = host.prepare(options)
        host.raise_file_limit()
        listeners = await _listen(options.host, options.port)
        port: int = listeners[0].socket.getsockname()[1]
        async with hold_tether(prepared.terms.tree.jobs) as tether, keep_jobs(prepared.terms) as keeper:
            api = Api(keeper)
            dispatcher = Dispatcher(services=api.services, status_of=status_of)
            listener = Listener(Door(context=context, policy=DEFAULT_POLICY, dispatcher=dispatcher))
            for line in (f"jobmaster {__version__}", *prepared.report):
                _say(line)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(tell_when_lost, tether)
                    await accepting.start(listener.serve, listeners, connections)
                    _say(f"ready on {_address(options.host, port)}")
                    task_status.started(port)
                    await anext(signals)
                    accepting.cancel_scope.cancel()
                await _end_jobs(api, keeper, signals)
                await _end_connections(listener)
                connections.cancel_scope.cancel()
        prepared.terms.tree.dispose()


async def _end_jobs(api: Api, keeper: Keeper, signals: AsyncIterator[int]) -> None:
    api.drain()
    async with trio.open_nursery() as ending:
        ending.start_soon(_hurry_when_told_again, signals, keeper)
        await keeper.drain()
        ending.cancel_scope.cancel()
    api.end_streams()


async def _hurry_when_told_again(signals: AsyncIterator[int], keeper: Keeper) -> None:
    await anext(signals)
    keeper.hurry()


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
    print(line, flush=True)  # noqa: T201  # what this program says on stdout


if __name__ == "__main__":
    main()
