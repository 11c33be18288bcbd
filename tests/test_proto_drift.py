"""The committed protobuf code is what the committed .proto files give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
PROTO: Final = REPOSITORY / "proto"
PATTERNS: Final = ("*_pb2.py", "*_pb2.pyi", "*_grpc.py")


def generate(out: Path) -> None:
    """Does what the nox session `proto` does, with this interpreter's grpcio-tools and purerpc."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "purerpc")]
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}", *outputs, *sources],
        env=os.environ | {"PATH": search_path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"install the dependency group `proto`: {done.stderr}"


def generated(root: Path) -> dict[str, bytes]:
    """The generated files of the package below `root`, by their paths."""
    files = {path for pattern in PATTERNS for path in (root / "jobmaster").rglob(pattern)}
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_committed_code_is_up_to_date(tmp_path: Path) -> None:
    """Generating again gives the committed files byte for byte; after a change of a .proto run `nox -s proto`."""
    generate(tmp_path)
    fresh, committed = generated(tmp_path), generated(REPOSITORY)
    assert "jobmaster/jobs/v1/jobs_pb2.py" in fresh
    assert fresh.keys() == committed.keys()
    assert [path for path, content in fresh.items() if content != committed[path]] == []
