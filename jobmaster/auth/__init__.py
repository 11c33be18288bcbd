"""Who a client is and what it may do: certificate to identity, identity to permission, and the two authorities.

The pure part decides: :mod:`~jobmaster.auth.policy` holds names, roles and permission, and
:mod:`~jobmaster.auth.certificate` turns a leaf certificate into an identity. The rest touches the host:
:mod:`~jobmaster.auth.folder` says where the certificates are, :mod:`~jobmaster.auth.key_files` reads and writes
them, :mod:`~jobmaster.auth.authority` makes them, and :mod:`~jobmaster.auth.tls` builds the TLS contexts of both
sides and asks a finished handshake who the peer is.
"""

from __future__ import annotations
