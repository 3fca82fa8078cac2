"""Finds the network interface that leads to another machine: by default, gloo uses the one of this machine's name.

Debian maps a machine's own name to 127.0.1.1 in /etc/hosts, and gloo then listens where no other machine can reach it.
Mixed-up ranks are detected here too: such machines would wait for each other forever.
"""

from __future__ import annotations

import ipaddress
import socket

import psutil

from distcls.errors import UsageError


def addresses() -> dict[str, list[str]]:
    """Return the IP addresses of each interface, except the loopback interface and those without an address."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = {
        name: [entry.address.partition("%")[0] for entry in entries if entry.family in families]
        for name, entries in psutil.net_if_addrs().items()
    }
    return {name: ips for name, ips in found.items() if any(not is_loopback(ip) for ip in ips)}


def is_loopback(address: str) -> bool:
    """True if an address means "this machine" on every machine."""
    ip = ipaddress.ip_address(address)
    return ip.is_loopback or ip.is_unspecified


def interface_to(host: str) -> str:
    """Return the interface through which this machine reaches `host`, or the one that has its address.

    Raises UsageError, naming alternatives, if there is none or it is the loopback interface.
    """
    family, kind, _, _, target = _resolve(host)[0]
    try:
        # Connecting a datagram socket sends nothing: the kernel only chooses a route.
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            address = probe.getsockname()[0]
    except OSError as error:
        raise _not_reached(host, error) from error
    found = addresses()
    if is_loopback(address):
        ways = [f"--head {ip} (interface {name})" for name, ips in found.items() for ip in ips if ":" not in ip]
        raise UsageError(
            f"--head {host} is {target[0]} here, which no other machine can reach; Debian's /etc/hosts gives it to a "
            f"machine's own name. Give the head's address instead: {' or '.join(ways) or 'but this machine has none'}."
        )
    return next(name for name, ips in found.items() if address in ips)


def check_interface(name: str) -> None:
    """Raise UsageError unless the interface, or each of several separated by commas, exists and has an address."""
    found = addresses()
    for one in name.split(","):
        if one not in found:
            there = " or ".join(found) or "but this machine has none"
            raise UsageError(f"--interface {name}: {one} does not exist or has no address. Give {there}.")


def check_head(host: str, rank: int) -> None:
    """Raise UsageError unless rank 0, and no other machine, has the head's address."""
    found = addresses()
    heads = [str(entry[4][0]).partition("%")[0] for entry in _resolve(host)]
    is_here = any(is_loopback(ip) or any(ip in ips for ips in found.values()) for ip in heads)
    means = host if host in heads else f"{host} ({heads[0]})"
    if is_here and rank > 0:
        raise UsageError(
            f"--head {means} is this machine itself, so its --rank is 0, not {rank}. If several ranks share that "
            "address (two of them on one machine), add --unchecked-head."
        )
    if not is_here and rank == 0:
        has = " ".join(ip for ips in found.values() for ip in ips if ":" not in ip) or "no address"
        raise UsageError(
            f"--rank 0 is the head, but this machine has {has}, and --head is {means}: is it --rank 1? If that address "
            "is forwarded to this machine (NAT, a Kubernetes service), add --unchecked-head."
        )


def _resolve(host: str) -> list:
    """Return getaddrinfo's answer on this machine. Raises UsageError if there is none."""
    try:
        return socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise _not_reached(host, error) from error


def _not_reached(host: str, error: OSError) -> UsageError:
    return UsageError(f"--head {host}: {error.strerror}. Give the address at which this machine reaches machine 0.")
