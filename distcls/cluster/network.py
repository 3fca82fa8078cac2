"""Which network interface leads to another machine: gloo must be told, because it would trust this machine's name.

Debian writes a machine's own name into /etc/hosts beside 127.0.1.1: gloo then waits where no other machine can reach
it. Machines whose ranks were mixed up are found out too: they would wait for each other in vain.
"""

from __future__ import annotations

import ipaddress
import socket

import psutil

from distcls.errors import UsageError


def addresses() -> dict[str, list[str]]:
    """interface -> its IP addresses; the loopback interface and those without an address are left out."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = {
        name: [entry.address.partition("%")[0] for entry in entries if entry.family in families]
        for name, entries in psutil.net_if_addrs().items()
    }
    return {name: ips for name, ips in found.items() if any(not is_loopback(ip) for ip in ips)}


def is_loopback(address: str) -> bool:
    """Whether an address means this machine itself, on whichever machine it is used."""
    ip = ipaddress.ip_address(address)
    return ip.is_loopback or ip.is_unspecified


def interface_to(host: str) -> str:
    """The interface through which this machine reaches `host`, or the one that has its address.

    Raises UsageError, naming what could be given instead, where there is none or it is the loopback interface.
    """
    family, kind, _, _, target = _resolve(host)[0]
    try:
        # A datagram socket sends nothing when it is connected: the kernel only chooses a route.
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            address = probe.getsockname()[0]
    except OSError as error:
        raise _not_reached(host, error) from error
    found = addresses()
    if is_loopback(address):
        ways = [f"--head {ip} (interface {name})" for name, ips in found.items() for ip in ips if ":" not in ip]
        raise UsageError(
            f"--head {host} is {target[0]} here, which no other machine can reach; Debian's /etc/hosts says so of a "
            f"machine's own name. Give the head's address instead: {' or '.join(ways) or 'but this machine has none'}."
        )
    return next(name for name, ips in found.items() if address in ips)


def check_interface(name: str) -> None:
    """Raise UsageError where an interface, or one of several with commas between them, is not there."""
    found = addresses()
    for one in name.split(","):
        if one not in found:
            there = " or ".join(found) or "but this machine has none"
            raise UsageError(f"--interface {name}: {one} is not here, or has no address. Give {there}.")


def check_head(host: str, rank: int) -> None:
    """Raise UsageError where the head's address belongs to a machine that is not rank 0, or rank 0 does not have it."""
    found = addresses()
    heads = [str(entry[4][0]).partition("%")[0] for entry in _resolve(host)]
    is_here = any(is_loopback(ip) or any(ip in ips for ips in found.values()) for ip in heads)
    means = host if host in heads else f"{host} ({heads[0]})"
    if is_here and rank > 0:
        raise UsageError(
            f"--head {means} is this machine itself, so it is --rank 0 and not {rank}. If the address is not its alone "
            "(two of them on one machine), add --unchecked-head."
        )
    if not is_here and rank == 0:
        has = " ".join(ip for ips in found.values() for ip in ips if ":" not in ip) or "no address"
        raise UsageError(
            f"--rank 0 is the head, but this machine has {has}, and --head is {means}: is it --rank 1? If that address "
            "is forwarded to this machine (NAT, a service of Kubernetes), add --unchecked-head."
        )


def _resolve(host: str) -> list:
    """What a name or an address means here, as getaddrinfo says it."""
    try:
        return socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise _not_reached(host, error) from error


def _not_reached(host: str, error: OSError) -> UsageError:
    return UsageError(f"--head {host}: {error.strerror}. Give the address of machine 0, as this one reaches it.")
