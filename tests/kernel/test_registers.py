"""What a guest's kernel needs on the host's processor; that it works there is what every guest shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel import registers
from tests.kernel.registers import NoCompiler, are_too_many, preload


@pytest.fixture(scope="session", autouse=True)
def guest() -> None:
    """In place of that of the folder: no guest is needed."""


def processor_with(flags: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this process's host be one with these flags."""
    file = folder / "cpuinfo"
    file.write_text(f"processor : 0\nflags : fpu {flags} sse2\n")
    monkeypatch.setattr(registers, "_CPUINFO", file)


def test_a_processor_that_the_guest_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is built, and no compiler asked for."""
    processor_with("avx512f", tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not are_too_many()
    assert preload(tmp_path) == {}


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With AMX and no compiler, the error names the package."""
    processor_with("amx_tile", tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompiler, match="apt-get install gcc"):
        preload(tmp_path)
