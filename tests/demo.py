"""What jobmaster does, shown: `nox -s demo` starts a real server and runs its main job end to end.

Every step is a command that a user types; each is checked, and the demo ends with 0 only when all did what they say.
Nothing is left behind: certificates, output and cgroups of the demo live in folders of their own.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobmaster.certs import authority
from jobmaster.host.cgroup.mounts import find_cgroup2, read_mounts

PROMPT = "\033[1m$\033[0m" if sys.stdout.isatty() else "$"
PYTHON = [sys.executable, "-m"]


class DemoFailed(Exception):
    """A step did not do what it says."""


class Demo:
    """A server of the demo's own, and the clients' commands against it."""

    def __init__(self, folder: Path, port: int) -> None:
        self._target = ["--server", f"localhost:{port}", "--certs-dir", str(folder)]

    def run(self, name: str, *words: str, expects: int = 0) -> str:
        """Runs `jobmaster -n NAME WORDS…`; shows and returns what it printed on stdout."""
        print(f"\n{PROMPT} jobmaster -n {name} {shlex.join(words)}", flush=True)
        command = [*PYTHON, "jobmaster", *self._target, "-n", name, *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                print(line, end="", flush=True)
        if process.returncode != expects:
            raise DemoFailed(f"exit status {process.returncode}, {expects} was expected")
        return "".join(lines)

    def status(self, name: str, job_id: str, *expected: str) -> None:
        """Shows a job's status and checks some of its lines, named by their beginnings."""
        shown = self.run(name, "status", job_id).splitlines()
        missing = [line for line in expected if not any(each.startswith(line) for each in shown)]
        if missing:
            raise DemoFailed(f"the status lacks {missing}")


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """A server on a free port; the block gets the port."""
    mount = find_cgroup2(read_mounts())
    if os.geteuid() != 0 or mount is None:
        raise DemoFailed("the demo starts a server as root, on a host with cgroup v2: run it as root")
    root = mount.mount_point / f"jobmaster-demo-{os.getpid()}"
    options = ["--listen", "localhost:0", "--output-dir", str(folder / "output"), "--certs-dir", str(folder / "certs")]
    command = [*PYTHON, "jobmaster.serve", *options, "--cgroup-root", str(root)]
    print(f"{PROMPT} python -m jobmaster.serve {shlex.join(options)}", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                if line.startswith("ready on "):
                    yield int(line.rpartition(":")[2])
                    break
        finally:
            process.terminate()
    if process.returncode != 0 or root.exists():
        raise DemoFailed(
            f"the server ended with {process.returncode}, its cgroups {'left' if root.exists() else 'gone'}"
        )
    print(f"\n{PROMPT} kill -TERM SERVER: it ended with 0, and every cgroup is gone")


def listing(demo: Demo) -> None:
    """A command, its output, and how it ended."""
    job_id = demo.run("client1", "start", "ls", "-l", "/").strip()
    if "etc" not in demo.run("client1", "logs", job_id):
        raise DemoFailed("the listing lacks /etc")
    demo.status("client1", job_id, "state      JOBSTATE_COMPLETED", "exit code  0")


def counting_job(demo: Demo) -> None:
    """A job that counts, streamed while it runs, and what its exit code tells."""
    script = "for i in 1 2 3 4 5; do echo $i; sleep 0.4; done; exit 7"
    job_id = demo.run("client1", "start", "sh", "-c", script).strip()
    if demo.run("client1", "logs", job_id).split() != ["1", "2", "3", "4", "5"]:
        raise DemoFailed("the count has a gap")
    demo.status("client1", job_id, "state      JOBSTATE_COMPLETED", "exit code  7")


def stranger_and_stop(demo: Demo) -> None:
    """A job that nobody else can see, a client that nobody knows, and a stop."""
    job_id = demo.run("client1", "start", "sleep", "1000").strip()
    demo.status("client1", job_id, "state      JOBSTATE_RUNNING")
    demo.run("client2", "stop", job_id, expects=1)
    demo.run("stranger", "status", job_id, expects=1)
    demo.run("superuser", "status", job_id)
    demo.run("client1", "stop", job_id)
    demo.status("client1", job_id, "state      JOBSTATE_TERMINATED_BY_API", "exit code  -1", "signal     terminated")


def main() -> int:
    """Runs every part of the demo."""
    with tempfile.TemporaryDirectory(prefix="jobmaster-demo-") as name:
        folder = Path(name)
        authority.initialise(folder / "certs")
        authority.issue(folder / "certs", "stranger")  # a valid certificate of a name that the server does not know
        try:
            with server(folder) as port:
                demo = Demo(folder / "certs", port)
                listing(demo)
                counting_job(demo)
                stranger_and_stop(demo)
        except DemoFailed as failure:
            print(f"\ndemo failed: {failure}", file=sys.stderr)
            return 1
    print("\nAll of it did what it says.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
