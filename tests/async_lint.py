"""flake8-async as a program of its own, `python -m tests.async_lint`, in half the time: its options and files are the same.

It walks through each file once for each thing that it looks for, and has libcst compute anew for each walk where
everything stands in the file, because a walk may change it. None does unless it is told to mend what it finds, which is
refused here; so each file is the same in all walks, and what is known of it is kept for them.
"""

from __future__ import annotations

import sys

import flake8_async
import libcst


class KeptMetadata(libcst.MetadataWrapper):  # type: ignore[misc]  # no types of libcst's are looked at
    """What libcst computes for a module, kept while the walks through that module last."""

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

    def visit(self, visitor: libcst.CSTTransformer) -> libcst.Module:
        """One walk; the module is what it was."""
        super().visit(visitor)
        return self.module


def main() -> int:
    """The program."""
    if any(argument.startswith("--autofix") for argument in sys.argv):
        sys.exit("async_lint mends nothing: use flake8-async for that")
    libcst.MetadataWrapper = KeptMetadata
    return int(flake8_async.main())


if __name__ == "__main__":
    sys.exit(main())
