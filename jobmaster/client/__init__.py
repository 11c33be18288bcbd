"""The client library: calls to a jobmaster server from Trio programs.

    async with jobmaster.client.connect("localhost", 6443, folder=certs, name="client1") as jobs:
        job_id = await jobs.start("make", "-C", "/srv/app")
        async with jobs.stream_output(job_id) as chunks:
            async for chunk in chunks:
                sys.stdout.buffer.write(chunk)
        record = await jobs.status(job_id)

The deadline of the scope around a call (`trio.fail_after`) is told to the server; a call that is cancelled is
cancelled there too. Errors of the server are purerpc's `RpcFailedError`s, with `status`; a lost or refused connection
is a :class:`~jobmaster.errors.TransportError`. `stream_output` survives a lost connection; of the other calls only
the caller can know whether they took effect.
"""

from __future__ import annotations

from jobmaster.client.jobs import Jobs, RpcFailedError, connect
from jobmaster.client.resumption import OutputIncomplete

__all__ = ["Jobs", "OutputIncomplete", "RpcFailedError", "connect"]
