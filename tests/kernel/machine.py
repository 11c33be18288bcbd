"""Boot a virtual machine and run the kernel tests in it: `python tests/kernel/machine.py FOLDER [pytest arguments]`.

Many hosts bind the memory, cpu, io and pids controllers to cgroup v1, so their cgroup v2 cannot enforce a limit.
virtme-ng boots Debian's generic kernel over the host's own files, read-only, in some 15 seconds: cgroup2 is at
/sys/fs/cgroup with every controller, /tmp and /run are writable in memory, and a disk image that is made in FOLDER is
mounted at ``$JOBMASTER_DISK``. The processor is emulated, because nested KVM is not to be had everywhere; Python is
about twenty times slower in there. So the guest boots once, runs one pytest, and finds its bytecode already compiled.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
DISK_BYTES: Final = 512 * 1024**2
DISK_MOUNT: Final = "/run/jobmaster-disk"
DEADLINE: Final = 20 * 60.0
"""Seconds until a machine that has not ended is taken for hung."""


class MachineError(Exception):
    """The virtual machine could not be prepared or did not end; the text names the remedy."""


def newest_kernel() -> Path:
    """The newest generic Debian kernel; the cloud flavour has no 9p, which the guest's root file system needs."""
    images = [image for image in Path("/boot").glob("vmlinuz-*-amd64") if "cloud" not in image.name]
    if not images:
        msg = "no /boot/vmlinuz-*-amd64; install it with: sudo apt-get install linux-image-amd64"
        raise MachineError(msg)
    return max(images, key=lambda image: [int(number) for number in re.findall(r"\d+", image.name)])


def prepare_tests() -> list[str]:
    """Compile on the host what the guest would compile at a twentieth of the speed; the modules with kernel tests.

    Collecting imports and so compiles the tests, and finds a broken one before the machine boots.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    compile_all = [sys.executable, "-m", "compileall", "-q", "jobmaster"]
    collect = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "kernel"]
    subprocess.run(compile_all, cwd=REPOSITORY, env=environment, check=True)
    collected = subprocess.run(collect, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if collected.returncode != 0:
        msg = f"pytest could not collect the tests:\n{collected.stdout}"
        raise MachineError(msg)
    return sorted({line.partition("::")[0] for line in collected.stdout.splitlines() if "::" in line})


def make_disk(image: Path) -> None:
    """Make a file that the guest sees as a real block device with an empty ext4 file system."""
    image.unlink(missing_ok=True)
    with image.open("xb") as file:
        file.truncate(DISK_BYTES)
    mkfs = shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4"
    subprocess.run([mkfs, "-q", "-F", str(image)], check=True)


def guest_script(pytest_arguments: list[str]) -> str:
    """The shell script that the guest runs; its exit status is that of the machine."""
    search = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {
        "JOBMASTER_GUEST": "1",
        "JOBMASTER_DISK": DISK_MOUNT,
        "PATH": search,
        "PYTHONDONTWRITEBYTECODE": "1",  # the root file system is read-only
        "PYTHONUNBUFFERED": "1",
    }
    assignments = [f"{name}={value}" for name, value in environment.items()]
    # The cache would go to the read-only tree; the timeout is for stack dumps only, and slow is normal here.
    options = ["-m", "kernel", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=600"]
    pytest = ["env", *assignments, sys.executable, "-m", "pytest", *options, *pytest_arguments]
    return "\n".join(
        [
            "set -e",
            'echo "guest: Linux $(uname -r), up after $(cut -d" " -f1 /proc/uptime) s"',
            f"mkdir {DISK_MOUNT}",
            f"mount -t ext4 /dev/vda {DISK_MOUNT}",
            f"exec {shlex.join(pytest)}",
            "",
        ]
    )


def boot(folder: Path, kernel: Path) -> int:
    """Boot with the script and disk of this folder; the script's exit status, 255 after a panic of the guest."""
    command = [
        *("vng", "--run", str(kernel), "--disable-kvm", "--force-9p", "--cpus", "2", "--memory", "2G"),
        *("--user", "root", "--cwd", str(REPOSITORY), "--append", "psi=1"),
        *("--disk", "disk.img"),  # relative, as virtme-ng takes no blank, comma or equals sign in a path
        *("--", f"sh {shlex.quote(str(folder / 'guest.sh'))}"),
    ]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True) as machine:
        try:
            return machine.wait(DEADLINE)
        except BaseException:
            os.killpg(machine.pid, signal.SIGKILL)  # virtme-ng leaves QEMU behind when it alone is killed
            raise


def main(arguments: list[str]) -> int | str:
    """Prepare the machine in the folder named first, run pytest in it with the other arguments (all kernel tests).

    Returns what :func:`sys.exit` takes: the exit status of the tests, or the reason why there is none.
    """
    folder = Path(arguments[0]).resolve()
    try:
        kernel = newest_kernel()
        modules = prepare_tests()
        make_disk(folder / "disk.img")
        (folder / "guest.sh").write_text(guest_script(arguments[1:] or modules))
        return boot(folder, kernel)
    except subprocess.TimeoutExpired:
        return f"kernel tests: the virtual machine was killed, as it was not done after {DEADLINE:.0f} s"
    except (MachineError, subprocess.CalledProcessError) as error:
        return f"kernel tests: {error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
