"""A job with a FUSE file system of its own: `python3 fuse_job.py DEVICE KIND [NAME] [hidden]`, with the standard library alone.

A hostile one says when it is up, and at SIGUSR1 writes a line and a page of it to its output. Its daemon, who is to read that page, never
answers: a thread of the process that writes (`one`), or another process (`two`). Hidden, the file system is in no mount namespace
by then, and its page is mapped no more. One that `lends` gives a file of it to one that `borrows` it, by a socket of that name. One that `crowds` has
more mounts than there is time to look at. One that `syncs` has changed a page of a file that nobody sees, and waits until its daemon has
written it, which it never does. Another kind of job `reads`
from it, counts aloud, and ends with status 7 at SIGUSR1. A `probe` tells whether all this can be done here.
"""

import ctypes
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time

_CLONE_NEWNS = 0x20000
_CLONE_NEWUSER = 0x10000000
_MNT_DETACH = 2
_MS_BIND, _MS_REC = 0x1000, 0x4000
_LOOKUP, _GETATTR, _OPEN, _READ, _WRITE, _INIT = 1, 3, 14, 15, 16, 26  # include/uapi/linux/fuse.h
_NO_ANSWER = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
_ENOSYS = 38
_FILE = 2
_SIZE = 1 << 16

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Ends with what the kernel said."""
    if result < 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def enter() -> None:
    """Is root in namespaces of its own."""
    uid, gid = os.getuid(), os.getgid()
    checked(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare(2) of a user namespace")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount(fd: int) -> str:
    """Mounts the file system of a /dev/fuse; returns where. A mount beside it has a name that tries readers of mountinfo."""
    checked(libc.mount(b"none", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None), "mount(2) of a tmpfs")
    os.mkdir("/tmp/\v")
    checked(libc.mount(b"none", b"/tmp/\v", b"tmpfs", ctypes.c_ulong(0), None), "mount(2) of a tmpfs")
    os.mkdir("/tmp/own")
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    checked(libc.mount(b"own", b"/tmp/own", b"fuse", ctypes.c_ulong(0), options), "mount(2) of a FUSE file system")
    return "/tmp/own"


def attributes(node: int) -> bytes:
    """A struct fuse_attr."""
    mode = 0o40777 if node != _FILE else 0o100666
    return struct.pack("6Q10I", node, _SIZE, _SIZE // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode: int, node: int) -> bytes:
    """What follows the head of an answer."""
    if opcode == _INIT:
        return struct.pack("4I2H2I2H8I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *(8 * (0,)))
    if opcode == _LOOKUP:
        return struct.pack("4Q2I", _FILE, 0, 1000, 1000, 0, 0) + attributes(_FILE)
    if opcode == _GETATTR:
        return struct.pack("Q2I", 1000, 0, 0) + attributes(node)
    if opcode == _READ:
        return b"x"
    return struct.pack("Q2I", 1, 0, 0)


def serve(fd: int, *, unanswered: int = 0) -> None:
    """Answers all, or all but one kind of requests."""
    while True:
        request = os.read(fd, 1 << 20)
        _, opcode, unique, node = struct.unpack_from("2I2Q", request)
        if opcode in (*_NO_ANSWER, unanswered):
            continue
        is_known = opcode in (_INIT, _LOOKUP, _GETATTR, _OPEN, _READ)
        rest = answer(opcode, node) if is_known else b""
        os.write(fd, struct.pack("IiQ", 16 + len(rest), 0 if is_known else -_ENOSYS, unique) + rest)


def count(path: str) -> None:
    """Reads from the file again and again, and ends when it is told to."""
    told: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
    number = 0
    while not told:
        number += 1
        with open(path, "rb", buffering=0) as file:
            file.read(1)
        print(number, flush=True)
        time.sleep(0.05)
    print("last", flush=True)
    os._exit(7)


def start_daemon(fd: int, kind: str) -> None:
    """Has the file system served by a thread of this process, or by another one."""
    if kind in ("one", "syncs"):
        unanswered = _READ if kind == "one" else _WRITE
        threading.Thread(target=serve, args=(fd,), kwargs={"unanswered": unanswered}, daemon=True).start()
        return
    if os.fork() == 0:
        os.close(1)
        os.close(2)
        serve(fd, unanswered=0 if kind == "reads" else _READ)
    os.close(fd)


def lend(path: str, name: str) -> None:
    """Gives the file to whoever comes for it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + name)
    listener.listen()
    print("up", flush=True)
    with open(path, "rb") as file:
        while True:
            socket.send_fds(listener.accept()[0], [b"x"], [file.fileno()])


def borrow(name: str) -> int:
    """The file that another job lends."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("\0" + name)
    return socket.recv_fds(connection, 1, 1)[1][0]


def crowd() -> None:
    """Has 32,768 mounts below the roots of 40 processes, each of which shows them by another text."""
    checked(libc.mount(b"none", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None), "mount(2) of a tmpfs")
    folder = "/tmp" + 40 * "/d" + "/m"
    os.makedirs(folder)
    checked(libc.mount(b"none", folder.encode(), b"tmpfs", ctypes.c_ulong(0), None), "mount(2) of a tmpfs")
    for number in range(15):
        os.mkdir(f"{folder}/{number}")
        flags = ctypes.c_ulong(_MS_BIND | _MS_REC)
        checked(libc.mount(folder.encode(), f"{folder}/{number}".encode(), None, flags, None), "mount(2) of a mount")
    os.chdir("/tmp")
    for _ in range(40):
        os.chdir("d")
        if os.fork() == 0:
            os.chroot(".")
            signal.pause()
    print("up", flush=True)
    signal.pause()


def hide(address: int) -> None:
    """Unmaps the page, while the kernel waits for it."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/wchan") as file:
            if "request_wait_answer" in file.read():
                break
        time.sleep(0.01)
    checked(libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(4096)), "munmap(2)")


def hold_lock(file: int, *, is_hidden: bool = False) -> None:
    """Writes a page of a file to the output, when it is told to, behind a line that somebody comes for."""
    page = mmap.mmap(file, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    os.close(file)
    if is_hidden:
        threading.Thread(target=hide, args=(ctypes.addressof(ctypes.c_char.from_buffer(page)),), daemon=True).start()
    print("up", flush=True)
    signal.sigwait({signal.SIGUSR1})
    os.write(1, b"line\n")
    os.writev(1, [page])


def sync(path: str) -> None:
    """Waits for the writing of a page that it has changed; what waits does so without Python's lock, which the daemon needs."""
    file = os.open(path, os.O_RDWR)
    page = mmap.mmap(file, 4096)
    address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    libc.memset(address, 1, ctypes.c_size_t(1))
    checked(libc.umount2(os.path.dirname(path).encode(), _MNT_DETACH), "umount2(2)")
    print("up", flush=True)
    os.fsync(file)


def main(device: str, kind: str, *words: str) -> None:
    """Never returns, but for a probe."""
    if kind != "reads":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    if kind == "borrows":
        hold_lock(borrow(words[0]), is_hidden="hidden" in words)
    enter()
    if kind == "crowds":
        crowd()
    fd = os.open(device, os.O_RDWR)
    folder = mount(fd)
    if kind == "probe":
        return
    start_daemon(fd, kind)
    if kind == "reads":
        count(f"{folder}/file")
    if kind == "syncs":
        sync(f"{folder}/file")
    if kind == "lends":
        lend(f"{folder}/file", words[0])
    file = os.open(f"{folder}/file", os.O_RDONLY)
    if "hidden" in words:
        checked(libc.umount2(folder.encode(), _MNT_DETACH), "umount2(2)")
    hold_lock(file, is_hidden="hidden" in words)


main(*sys.argv[1:])
