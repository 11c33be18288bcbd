"""A job whose end another job of the same client withholds by ptrace(2), under servers that may look behind that and others that may not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.harness import serving_program, until_output

WITHOUT_PTRACE: Final = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_SYS_PTRACE = 24, 19
assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
TRACED: Final = """
import ctypes, os
PR_SET_PTRACER = 0x59616d61
ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
print("there", flush=True)
while "TracerPid:\\t0\\n" in open("/proc/self/status").read():
    pass
os._exit(9)
"""
TRACER: Final = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
PTRACE_SEIZE = 0x4206
assert libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), 0, 0) == 0, ctypes.get_errno()
print("seized", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("under", "kind", "code"),
    [((), "exited", 9), ((sys.executable, "-c", WITHOUT_PTRACE), "server_lost", -1)],
    ids=["may look", "may not look"],
)
async def test_how_a_traced_job_died(
    tmp_path: Path, certificates: Path, under: tuple[str, ...], kind: str, code: int
) -> None:
    """A status that a tracer withholds is told where the kernel tells it to the server; else it is told as not known."""
    async with (
        serving_program(tmp_path, certificates, under=under) as (server, _),
        server.connect("client1") as victims,
        server.connect("client1") as attackers,
    ):
        victim = await victims.start("/usr/bin/python3", "-c", TRACED)
        await until_output(victims, victim, b"there")
        pid = (await victims.status(victim)).pid
        tracer = await attackers.start("/usr/bin/python3", "-c", TRACER, str(pid))
        await until_output(attackers, tracer, b"seized")
        with trio.fail_after(60):
            record = await victims.wait(victim)
        await attackers.stop(tracer, force=True)
    assert (record.cause.WhichOneof("kind"), record.exit_code) == (kind, code)
    assert ("CAP_SYS_PTRACE" in record.cause.server_lost.reason) == (kind == "server_lost")
