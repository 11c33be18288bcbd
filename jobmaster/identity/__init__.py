"""Who a client is and what it may do: certificate to identity, identity to permission, and the two authorities.

The pure part decides: :mod:`~jobmaster.identity.policy` holds names, roles and permission, and
:mod:`~jobmaster.identity.certificate` turns a leaf certificate into an identity. The rest touches the host:
:mod:`~jobmaster.certs.folder` says where the certificates are, :mod:`~jobmaster.certs.key_files` reads and writes
them, :mod:`~jobmaster.certs.authority` makes them, and :mod:`~jobmaster.certs.contexts` builds the TLS contexts of both
sides and asks a finished handshake who the peer is.
"""

from __future__ import annotations
