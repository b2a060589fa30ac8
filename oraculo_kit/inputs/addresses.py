"""Which machines may be asked for a document: those of the public internet, and those that a setting names.

A name is resolved once, every address that it has is checked, and the connection goes to one of these very addresses:
a name server that answers differently the second time (DNS rebinding) is not asked a second time.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oraculo_kit.errors import SettingsError, SourceError, SourceUnreadableError

if TYPE_CHECKING:
    from oraculo_kit.environment.sources import Deadline

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Networks that carry an IPv4 address in their last 32 bits: what counts is where that leads.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
_NEVER_PUBLIC = (
    ipaddress.ip_network("64:ff9b:1::/48"),  # NAT64 for private networks
    ipaddress.ip_network("2001::/32"),  # Teredo: leads to whatever machine is behind it
    ipaddress.ip_network("fec0::/10"),  # site-local, still routed in places
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4
)


@dataclass(frozen=True)
class AllowedHosts:
    """Hosts that may be asked although they are not public.

    Attributes
    ----------
    names : frozenset of str
        In lower case.
    networks : tuple of network
    """

    names: frozenset[str] = frozenset()
    networks: tuple[_Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowedHosts:
        """Read the value of ``ORACULO_URL_ALLOW``: names, addresses and networks, separated by commas.

        Raises
        ------
        SettingsError
            For an entry that is none of these, such as a URL.

        Examples
        --------
        >>> allowed = AllowedHosts.parse("wiki.intern, 10.1.0.0/16")
        >>> sorted(allowed.names), [str(network) for network in allowed.networks]
        (['wiki.intern'], ['10.1.0.0/16'])
        """
        names, networks = set[str](), list[_Network]()
        for entry in filter(None, (each.strip() for each in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                if any(letter in entry for letter in "/:@* "):
                    raise SettingsError(
                        f"ORACULO_URL_ALLOW has {entry!r}, expected the name of a host, an address or a network, "
                        "without scheme and port. Correct it."
                    ) from None
                names.add(entry.lower().rstrip("."))
        return cls(frozenset(names), tuple(networks))


def is_public(address: _Address) -> bool:
    """Tell an address of the public internet, looking into IPv6 addresses that carry an IPv4 one.

    Examples
    --------
    >>> [is_public(ipaddress.ip_address(text)) for text in ("1.1.1.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False]
    """
    if any(address in network for network in _NEVER_PUBLIC):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour
        if carried is None and (address in _NAT64 or address in _COMPATIBLE):
            carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(carried)
    return address.is_global and not address.is_multicast and not address.is_reserved


def checked_addresses(
    host: str, port: int, allowed: AllowedHosts, deadline: Deadline
) -> list[tuple[int, tuple[str, int]]]:
    """Resolve a host, and return the addresses to connect to.

    Returns
    -------
    list of (family, (address, port))

    Raises
    ------
    SourceUnreadableError
        When it has no address, or there was no answer in time.
    SourceError
        When any of its addresses is neither public nor allowed.
    """
    found = _resolved(host, port, deadline)
    refuse_private(host, [address for _, (address, _) in found], allowed)
    return found


def refuse_private(host: str, addresses: Sequence[str], allowed: AllowedHosts) -> None:
    """Raise a `SourceError` when a host, or one of its addresses, may not be asked."""
    if host.lower().rstrip(".") in allowed.names:
        return
    for text in addresses:
        # A zone (fe80::1%eth0) belongs to addresses of one cable only.
        address = ipaddress.ip_address(text.partition("%")[0])
        carried = getattr(address, "ipv4_mapped", None) or address
        if not is_public(address) and not any(
            carried.version == network.version and carried in network for network in allowed.networks
        ):
            raise SourceError(
                f"{host} is {address}, which is no public address, so it was not asked: documents could be fetched from "
                f"inside your network this way. If that is meant, set ORACULO_URL_ALLOW={host}"
            )


def _resolved(host: str, port: int, deadline: Deadline) -> list[tuple[int, tuple[str, int]]]:
    """Resolve in another thread: name resolution has no time limit of its own."""
    answers: list[list[tuple[int, tuple[str, int]]]] = []
    failures: list[Exception] = []

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.append([(family, (str(place[0]), port)) for family, _, _, _, place in found])
        except (OSError, UnicodeError) as exc:
            failures.append(exc)

    thread = threading.Thread(target=resolve, name="oraculo-resolve", daemon=True)
    thread.start()
    thread.join(deadline.remaining())
    if answers and answers[0]:
        return answers[0]
    if failures:
        raise SourceUnreadableError(f"{host}: no such host ({failures[0]}); check the URL") from failures[0]
    raise SourceUnreadableError(f"{host}: its name was not resolved in {deadline.seconds:g} s; try again")
