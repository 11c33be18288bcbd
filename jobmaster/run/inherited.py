"""What a server gets from its predecessors, by way of the launcher."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass, field

from jobmaster.errors import HostError
from jobmaster.launcher.packets import Received, close_all
from jobmaster.launcher.protocol import Phase, ProtocolError, Table, TableEnd
from jobmaster.run.child import Child, Order


@dataclass(slots=True, kw_only=True, eq=False)
class InheritedChild:
    """A child that an earlier server has left.

    Attributes:
        child: knows outcome and status as far as the launcher does; there is no go byte to be sent any more.
        output_read: the read end of its output pipe, the holder's own.
        keeps: other descriptors that the earlier server had the launcher keep, likewise.
        phase: how far it had got. HELD may become any other: the old server may have sent the go byte.
        order: what was ordered for it.
    """

    child: Child
    output_read: int
    phase: Phase
    keeps: dict[str, int] = field(default_factory=dict)
    order: Order | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The holder's own."""
        return (self.output_read, *self.keeps.values())


@dataclass(slots=True, kw_only=True, eq=False)
class Inherited:
    """What earlier servers have left. Who takes something out of these owns it; `close` closes the rest.

    Attributes:
        predecessors: how many servers the launcher had started before this one.
        is_followed: another server follows this one when it was ready and dies, or hands over. A launcher that is
            attached ends the jobs instead.
        children: by id.
        locks: descriptors by name, as given to `Launcher.keep`.
        listeners: listening sockets with their names, as given to `Launcher.say_ready`, in that order.
    """

    predecessors: int = 0
    is_followed: bool = False
    children: dict[str, InheritedChild] = field(default_factory=dict)
    locks: dict[str, int] = field(default_factory=dict)
    listeners: list[tuple[str, socket.socket]] = field(default_factory=list)

    def add(self, row: Table, descriptors: tuple[int, ...], child: Child) -> None:
        """Takes a child; owns the descriptors.

        Raises:
            HostError: some did not come.
        """
        with_pidfd = 1 if row.wait_status is not None else 2
        if len(descriptors) != with_pidfd + len(row.keeps):
            close_all(descriptors)
            raise _too_few()
        output_read, *pidfd = descriptors[:with_pidfd]
        child._on_inherited(row, *pidfd)
        keeps = dict(zip(row.keeps, descriptors[with_pidfd:], strict=True))
        self.children[row.id] = InheritedChild(child=child, output_read=output_read, phase=row.phase, keeps=keeps)

    def finish(self, end: TableEnd, received: Received) -> None:
        """Takes what is not of one child.

        Raises:
            HostError: descriptors did not come.
            ProtocolError: a listening socket is none.
        """
        if len(received.descriptors) != len(end.locks) + len(end.listeners):
            close_all(received.descriptors)
            raise _too_few()
        self.predecessors = end.predecessors
        self.is_followed = end.is_followed
        descriptors = iter(received.descriptors)
        self.locks = dict(zip(end.locks, descriptors, strict=False))
        for name in end.listeners:
            fd = next(descriptors)
            try:
                self.listeners.append((name, socket.socket(fileno=fd)))
            except OSError as error:
                close_all((fd, *descriptors))
                raise ProtocolError(f"{name} is no socket") from error

    def close(self) -> None:
        """Closes what nobody has taken; the launcher keeps its own."""
        for each in self.children.values():
            close_all(each.descriptors)
            each.child.leave()
        close_all(tuple(self.locks.values()))
        for _, listener in self.listeners:
            listener.close()
        self.children, self.locks, self.listeners = {}, {}, []


def _too_few() -> HostError:
    return HostError(f"the launcher's descriptors cannot be opened: {os.strerror(errno.EMFILE)}; raise LimitNOFILE")
