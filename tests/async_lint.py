"""flake8-async as a program of its own, `python -m tests.async_lint`, in a quarter of the time: its options and files are the same.

It walks through each file once for each thing that it looks for. For each walk, which may change the file, libcst makes
every node anew and computes where everything stands. No walk changes anything unless it is told to mend what it finds,
which is refused here; so each file is walked through once, and of what was met there each visitor is told what it asks for.
"""

from __future__ import annotations

import gc
import sys
from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import Final

import flake8_async
import libcst


class Met(libcst.CSTVisitor):  # type: ignore[misc]  # no types of libcst's are looked at
    """What visitors are called with in the order in which it is met."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: Final[list[tuple[str, tuple[libcst.CSTNode, ...]]]] = []
        self._open: Final[list[int]] = []
        self._places: Final[dict[libcst.CSTNode, int]] = {}
        self._ends: Final[dict[int, int]] = {}
        self._named: Final[dict[str, list[int]]] = defaultdict(list)
        self._wanted: Final[dict[libcst.CSTTransformer, list[int]]] = {}

    def on_visit(self, node: libcst.CSTNode) -> bool:
        """A node begins."""
        self._places[node] = len(self._calls)
        self._open.append(len(self._calls))
        self._add(f"visit_{type(node).__name__}", node)
        return True

    def on_leave(self, original_node: libcst.CSTNode) -> None:
        """A node ends, as it was."""
        self._ends[self._open.pop()] = len(self._calls)
        self._add(f"leave_{type(original_node).__name__}", original_node, original_node)

    def on_visit_attribute(self, node: libcst.CSTNode, attribute: str) -> None:
        """A part of a node begins."""
        self._add(f"visit_{type(node).__name__}_{attribute}", node)

    def on_leave_attribute(self, original_node: libcst.CSTNode, attribute: str) -> None:
        """A part of a node ends."""
        self._add(f"leave_{type(original_node).__name__}_{attribute}", original_node)

    def _add(self, name: str, *nodes: libcst.CSTNode) -> None:
        self._named[name].append(len(self._calls))
        self._calls.append((name, nodes))

    def knows(self, node: libcst.CSTNode) -> bool:
        """Whether it was met."""
        return node in self._places

    def tell(self, visitor: libcst.CSTTransformer, node: libcst.CSTNode) -> None:
        """Calls the visitor as a walk through that node would; of what is in a node where it wants nothing it is not told."""
        wanted = self._wanted.get(visitor)
        if wanted is None:
            names = [name for name in self._named if is_wanted(visitor, name)]
            wanted = self._wanted[visitor] = sorted(place for name in names for place in self._named[name])
        first = self._places[node]
        at, end = bisect_left(wanted, first), bisect_right(wanted, self._ends[first])
        while at < end:
            place = wanted[at]
            name, nodes = self._calls[place]
            is_done = getattr(visitor, name)(*nodes) is False
            at = bisect_left(wanted, self._ends[place]) if is_done and place in self._ends else at + 1


def is_wanted(visitor: libcst.CSTTransformer, name: str) -> bool:
    """Whether a visitor does anything where it is called by that name."""
    method = getattr(visitor, name, None)
    return method is not None and not getattr(method, "_is_no_op", False)


class KeptMetadata(libcst.MetadataWrapper):  # type: ignore[misc]  # likewise
    """What libcst knows of a module, kept while the walks through that module last."""

    _last: KeptMetadata | None = None

    def __new__(cls, module: libcst.Module, **_options: object) -> KeptMetadata:
        """The same for the same module, one after another."""
        if cls._last is None or cls._last.module is not module:
            cls._last = super().__new__(cls)
        assert cls._last is not None
        return cls._last

    def __init__(self, module: libcst.Module, **_options: object) -> None:
        if getattr(self, "module", None) is not module:
            super().__init__(module, unsafe_skip_copy=True)
            self._met = Met()
            module.visit(self._met)

    def visit(self, visitor: libcst.CSTTransformer) -> libcst.Module:
        """One walk; the module is what it was."""
        walk = libcst.CSTNode.visit

        def tell(node: libcst.CSTNode, visitor: libcst.CSTTransformer) -> libcst.CSTNode:
            if not self._met.knows(node):
                return walk(node, visitor)
            self._met.tell(visitor, node)
            return node

        libcst.CSTNode.visit = tell  # by which visitors go on by themselves
        try:
            with visitor.resolve(self):
                self._met.tell(visitor, self.module)
        finally:
            libcst.CSTNode.visit = walk
        return self.module


def main() -> int:
    """The program."""
    if any(argument.startswith("--autofix") for argument in sys.argv):
        sys.exit("async_lint mends nothing: use flake8-async for that")
    gc.set_threshold(200_000, 20, 100)  # trees are many objects, and all of them are there to stay for a while
    libcst.MetadataWrapper = KeptMetadata
    return int(flake8_async.main())


if __name__ == "__main__":
    sys.exit(main())
