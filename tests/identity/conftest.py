"""Identities are read from certificates, so their tests share the certificate folder of the tests of those."""

from __future__ import annotations

from tests.certs.conftest import folder

__all__ = ["folder"]
