"""User-Mode Linux on processors with AMX.

Linux 6.1 keeps 2,696 bytes for the extended state (XSAVE) of a guest's process, and sets it by PTRACE_SETREGSET. With AMX
it has 11,008 bytes, and the host refuses to set a part of them (EFAULT): the guest panics when it executes its first
process. There, a ptrace of our own goes before the C library's, which fills in the rest.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")
_CPUINFO: Final = Path("/proc/cpuinfo")


class NoCompiler(Exception):
    """There is no C compiler; the text names the remedy."""


def are_too_many() -> bool:
    """Whether this host's processes have more registers than the guest's kernel knows of."""
    return "amx_tile" in _CPUINFO.read_text().split()


def preload(folder: Path) -> dict[str, str]:
    """What the environment of a guest's kernel needs on this host: nothing, or a library that is built in `folder`.

    Raises:
        NoCompiler: it cannot be built.
    """
    if not are_too_many():
        return {}
    compiler = shutil.which("cc")
    if compiler is None:
        raise NoCompiler("User-Mode Linux needs a C compiler on processors with AMX: apt-get install gcc")
    library = folder / "registers.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-nostdlib", "-O1", "-o", str(library), str(SOURCE)], check=True)
    return {"LD_PRELOAD": str(library)}
