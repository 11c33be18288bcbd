"""Who a client is and what it may do. Pure: certificate to identity, identity to permission.

:mod:`~jobmaster.identity.names` says how clients are called, :mod:`~jobmaster.identity.policy` holds roles and
permission, and :mod:`~jobmaster.identity.certificate` turns a leaf certificate into an identity.
"""

from __future__ import annotations
