from __future__ import annotations

import pytest

from deepshard.gossip.subnets import subnet_of


@pytest.mark.clause("7.4/8")
@pytest.mark.parametrize(
    ("host", "subnet"),
    [
        ("93.184.216.34", "93.184.216.0/24"),
        ("93.184.216.254", "93.184.216.0/24"),
        ("93.184.217.34", "93.184.217.0/24"),
        ("::ffff:93.184.216.34", "93.184.216.0/24"),
        ("2606:2800:220:1::5", "2606:2800:220:1::/64"),
        ("2606:2800:220:1:ffff::5", "2606:2800:220:1::/64"),
        ("2606:2800:220:2::5", "2606:2800:220:2::/64"),
        ("127.0.0.1", None),
        ("::1", None),
        ("10.1.2.3", None),
        ("192.168.0.7", None),
        ("::ffff:10.1.2.3", None),
        ("fe80::1%eth0", None),
        ("fd00::1", None),
        ("example.org", None),
        ("", None),
    ],
)
def test_addresses_count_by_their_network_unless_they_are_private(host: str, subnet: str | None) -> None:
    assert subnet_of(host) == subnet


def test_private_addresses_can_be_counted_too() -> None:
    assert subnet_of("127.0.0.1", count_private=True) == "127.0.0.0/24"
    assert subnet_of("10.1.2.3", count_private=True) == "10.1.2.0/24"
    assert subnet_of("fd00::1", count_private=True) == "fd00::/64"
