"""Addresses that the suite tells a target."""

from __future__ import annotations

import trio

from deepshard.conformance.listening import INVITATION_S, REDIAL_S, Hub
from deepshard.net.endpoints import Endpoint

INVITATIONS = 600
"""Of the kernel's some 14,000 ports so many draws hold one twice, but for one run in 300,000."""


def test_no_port_is_told_twice_in_a_run() -> None:
    hub = Hub(Endpoint("127.0.0.1", 0))

    async def ports() -> list[int]:
        told = []
        for _ in range(INVITATIONS):
            endpoint, listener = await hub.own_port()
            await listener.aclose()
            told.append(endpoint.port)
        return told

    told = trio.run(ports)
    assert len(set(told)) == INVITATIONS


def test_a_target_known_to_follow_invitations_is_given_the_time_of_a_redial() -> None:
    hub = Hub(Endpoint("127.0.0.1", 0))
    assert hub.invitation_s == INVITATION_S
    hub.follows_invitations = True
    assert hub.invitation_s == REDIAL_S
    hub.follows_invitations = False
    assert hub.invitation_s == INVITATION_S
