"""Which network a peer's address belongs to, for the bound on peers of one network in a mesh. Pure."""

from __future__ import annotations

import ipaddress


def subnet_of(host: str, *, count_private: bool = False) -> str | None:
    """The /24 of an IPv4 address or the /64 of an IPv6 address; None for what isn't counted.

    Not counted are names, and loopback, private and link-local addresses unless `count_private`: a network on one
    machine or in one rack has nothing else. An IPv4 address in IPv6 form counts as the IPv4 address.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not count_private and (address.is_private or address.is_loopback or address.is_link_local):
        return None
    bits = 24 if address.version == 4 else 64
    return str(ipaddress.ip_network((address, bits), strict=False))
