"""Reaping children that nobody asked for; a process of its own plays the launcher, so that it has no others."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

COUNT: Final = 300
SCRIPT: Final = f"""
import os
from jobmaster.launcher.child import Heritage
from jobmaster.launcher.children import Children
from jobmaster.launcher.poller import Poller

expected = {{}}
for number in range({COUNT}):
    pid = os.fork()
    if pid == 0:
        os._exit(number % 256)
    expected[pid] = number % 256
for pid in expected:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
children = Children(Poller(), lambda *_: None, Heritage(ignored=(), last_capability=0))
reaped = []
while not reaped or not reaped[-1].is_all:
    reaped.append(children.collect())
statuses = {{pid: os.waitstatus_to_exitcode(status) for each in reaped for pid, status in each.others.items()}}
assert statuses == expected
print(max(len(each.others) for each in reaped))
"""


def test_a_crowd_of_the_dead_is_reaped_in_batches() -> None:
    """Nobody can hold up the launcher by dying: it reaps a bounded number, and goes on later until none is left."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, timeout=60, check=True)
    assert 0 < int(ended.stdout) < COUNT / 2
