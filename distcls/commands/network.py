"""`python -m distcls.commands.network --head HOST`: tells launch/node.sh which interface leads to the head."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from distcls.commands.arguments import Parser
from distcls.commands.exit_codes import run_command


def main(argv: Sequence[str]) -> None:
    """Print the interface that leads to the head."""
    parser = Parser(
        prog="distcls.commands.network", description="Print the interface that leads to the head, for node.sh."
    )
    parser.add_argument("--head", metavar="HOST", help="address of machine 0")
    parser.add_argument("--rank", type=int, default=0, metavar="R", help="which machine this is")
    parser.add_argument("--unchecked-head", action="store_true", help="do not check whether HOST is this machine")
    parser.add_argument("--interface", metavar="NAME", help="only check that this interface exists")
    words = parser.parse_args(argv)
    from distcls.cluster.network import check_head, check_interface, interface_to

    interface = words.interface
    if interface:
        check_interface(interface)
    elif words.head:
        interface = interface_to(words.head)
    if words.head and not words.unchecked_head:
        check_head(words.head, words.rank)
    print(interface or "")


if __name__ == "__main__":
    sys.exit(run_command(main, None))
