"""Which network interface leads to another machine: gloo must be told, because it would trust this machine's name.

`python -m distcls.network HOST` prints it, for launch/node.sh. Debian writes a machine's own name into /etc/hosts
beside 127.0.1.1: gloo then waits where no other machine can reach it.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Sequence

from distcls.cli import run_command
from distcls.errors import UsageError


def addresses() -> dict[str, list[str]]:
    """interface -> its IP addresses; the loopback interface and those without an address are left out."""
    import psutil

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
    try:
        # A datagram socket sends nothing when it is connected: the kernel only chooses a route.
        family, kind, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            address = probe.getsockname()[0]
    except OSError as error:
        raise UsageError(
            f"--head {host}: {error.strerror}. Give the address of machine 0, as this one reaches it."
        ) from error
    found = addresses()
    if is_loopback(address):
        ways = [f"--head {ip} (interface {name})" for name, ips in found.items() for ip in ips if ":" not in ip]
        raise UsageError(
            f"--head {host} is {target[0]} here, which no other machine can reach; Debian's /etc/hosts says so of a "
            f"machine's own name. Give the head's address instead: {' or '.join(ways) or 'but this machine has none'}."
        )
    return next(name for name, ips in found.items() if address in ips)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m distcls.network HOST`."""
    return run_command(lambda words: print(interface_to(words[0])), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
