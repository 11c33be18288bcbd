"""The encoding of what a client sends, on a host with another one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

PACK: Final = """
import sys
from jobmaster.launcher.protocol import pack_strings
assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
sys.stdout.buffer.write(pack_strings("/", [chr(0xe9), chr(0x1f600), chr(0xdcff)], {"HOME": "/" + chr(0xdce9)}))
"""


def test_a_server_in_a_locale_without_utf_8() -> None:
    """Arguments stay the bytes that the client sent; a home folder stays the bytes of the host's own database."""
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    packed = subprocess.run([sys.executable, "-c", PACK], env=environment, capture_output=True, check=True).stdout
    assert packed == b"/\0" + "é\0😀\0".encode() + b"\xff\0HOME=/\xe9\0"
