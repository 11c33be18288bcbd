"""Names, roles and permission."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmaster.errors import CertificateRefused, ConfigurationError
from jobmaster.identity.names import is_canonical
from jobmaster.identity.policy import DEFAULT_POLICY, Identity, Policy, Role, may_touch

CLIENT1 = Identity(name="client1", role=Role.USER)
SUPERUSER = Identity(name="superuser", role=Role.ADMIN)


@pytest.mark.parametrize(
    ("name", "role"),
    [("client1", Role.USER), ("client2", Role.USER), ("client3", Role.USER), ("superuser", Role.ADMIN)],
)
def test_default_policy(name: str, role: Role) -> None:
    """The default policy knows three users and one admin."""
    assert DEFAULT_POLICY.identify(name) == Identity(name=name, role=role)


@pytest.mark.parametrize("name", ["CLIENT1", "Client1", "clienT1"])
def test_case_does_not_matter(name: str) -> None:
    """A name is found whatever its case, and the identity carries the canonical one."""
    assert DEFAULT_POLICY.identify(name) == CLIENT1


@pytest.mark.parametrize("name", ["", "client", "client11", "client1 ", " client1", "client1\n", "superuser\0.evil"])
def test_unknown_name(name: str) -> None:
    """A name that is not exactly in the policy is refused, and the refusal shows it."""
    with pytest.raises(CertificateRefused) as refusal:
        DEFAULT_POLICY.identify(name)
    assert repr(name) in str(refusal.value)


def test_only_ascii_is_folded() -> None:
    """A Unicode character whose lower case is an ASCII letter does not stand for that letter."""
    policy = Policy(identities=frozenset({Identity(name="kim", role=Role.USER)}))
    assert "\N{KELVIN SIGN}im".lower() == "kim"
    with pytest.raises(CertificateRefused):
        policy.identify("\N{KELVIN SIGN}im")


@given(st.text())
@settings(deadline=None)
def test_no_text_breaks_the_look_up(name: str) -> None:
    """Whatever the name, the answer is an identity of the policy or a refusal."""
    try:
        identity = DEFAULT_POLICY.identify(name)
    except CertificateRefused:
        assert name.lower() not in {"client1", "client2", "client3", "superuser"}
    else:
        assert identity.name == name.lower()


def test_one_role_for_each_name() -> None:
    """A policy that gives one name two roles cannot be made."""
    with pytest.raises(ConfigurationError, match="client1"):
        Policy(identities=frozenset({CLIENT1, Identity(name="client1", role=Role.ADMIN)}))


@pytest.mark.parametrize("name", ["", "Client1", "-x", "a_b", "a b", "a/b", "é", "a" * 55, "client1\n"])
def test_identity_needs_a_canonical_name(name: str) -> None:
    """An identity cannot be made with a name that is not canonical."""
    assert not is_canonical(name)
    with pytest.raises(ConfigurationError, match="not a client name"):
        Identity(name=name, role=Role.USER)


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a" * 54])
def test_canonical_names(name: str) -> None:
    """One to 54 lower-case letters, digits and hyphens are a name."""
    assert is_canonical(name)


@pytest.mark.parametrize(
    ("identity", "owner", "allowed"),
    [
        (CLIENT1, "client1", True),
        (CLIENT1, "client2", False),
        (CLIENT1, "superuser", False),
        (CLIENT1, "", False),
        (SUPERUSER, "client1", True),
        (SUPERUSER, "superuser", True),
    ],
)
def test_may_touch(identity: Identity, owner: str, *, allowed: bool) -> None:
    """A user may touch its own jobs, an admin everyone's."""
    assert may_touch(identity, owner) is allowed
