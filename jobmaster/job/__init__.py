"""What one job is.

Pure: `specification`, `identifier`, `cause`, `state`, `record`. With the kernel: `executable`, `launch`, `process`,
`tether`. With Trio: `nursery`, which owns a running job's three tasks.
"""

from __future__ import annotations
