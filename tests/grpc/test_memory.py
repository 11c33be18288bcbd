"""What is held for calls, counted over the server and for each caller."""

from __future__ import annotations

from jobmaster.grpc.memory import MAX_HELD, MAX_HELD_OF_CALLER, CallAccount, ServerLoad


def test_one_caller_has_its_share() -> None:
    """A call that would exceed it changes nothing; another caller's are counted by themselves."""
    server = ServerLoad()
    first, second = CallAccount(server, server.of("a")), CallAccount(server, server.of("a"))
    other = CallAccount(server, server.of("b"))
    assert first.set(MAX_HELD_OF_CALLER - 1)
    assert not second.set(2)
    assert second.set(1)
    assert other.set(2)
    assert first.set(0)
    assert second.set(2)
    assert (server.held, server.of("a").held, server.of("b").held) == (4, 2, 2)


def test_all_callers_have_a_bound() -> None:
    """However many there are; what is held may always become less."""
    server = ServerLoad()
    full = MAX_HELD // MAX_HELD_OF_CALLER
    accounts = [CallAccount(server, server.of(number)) for number in range(full)]
    assert all(account.set(MAX_HELD_OF_CALLER) for account in accounts)
    late = CallAccount(server, server.of(full))
    assert not late.set(1)
    assert accounts[0].set(1)
    assert late.set(1)


def test_a_caller_is_forgotten() -> None:
    """When none of its connections and calls is left."""
    server = ServerLoad()
    account = CallAccount(server, server.of("a"))
    assert len(server._of) == 1
    del account
    assert len(server._of) == 0
