"""The client library: calls to a jobmaster server from Trio programs.

    async with jobmaster.client.connect("localhost", 6443, folder=certs, name="client1") as jobs:
        job_id = await jobs.start("make", "-C", "/srv/app")
        async with jobs.stream_output(job_id) as chunks:
            async for chunk in chunks:
                sys.stdout.buffer.write(chunk)
        record = await jobs.status(job_id)

The deadline of the scope around a call (`trio.fail_after`) is told to the server; a call that is cancelled is
cancelled there too. Errors of the server are purerpc's `RpcFailedError`s, with `status`; a lost or refused connection
is a :class:`~jobmaster.errors.TransportError`. Every call survives a lost connection and a server that dies or is
replaced: it is made again, with pauses, for `patience` seconds (30), and those that last as long as a job for ten times as
long. That is safe: what is asked twice is answered twice, and `start` gives each start a name by which the server knows it.
"""

from __future__ import annotations

from jobmaster.client.attachment import Attachment
from jobmaster.client.jobs import Jobs, RpcFailedError, connect, new_request_id
from jobmaster.client.limits import LimitsIgnored
from jobmaster.client.resumption import OutputIncomplete
from jobmaster.client.unacknowledged import InputLost

__all__ = [
    "Attachment",
    "InputLost",
    "Jobs",
    "LimitsIgnored",
    "OutputIncomplete",
    "RpcFailedError",
    "connect",
    "new_request_id",
]
