"""The certificates by which clients and the server know each other: authorities, files and TLS contexts.

:mod:`~jobmaster.certs.folder` says where the certificates are, :mod:`~jobmaster.certs.key_files` reads them,
:mod:`~jobmaster.certs.writing` writes them, :mod:`~jobmaster.certs.authority` makes them,
:mod:`~jobmaster.certs.credentials` builds TLS contexts from them, and :mod:`~jobmaster.certs.contexts` the server's, and
asks a finished handshake who the peer is.
"""

from __future__ import annotations
