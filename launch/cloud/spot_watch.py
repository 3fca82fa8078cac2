#!/usr/bin/env python3
"""Runs a command on a spot machine, and asks it to save and leave when the cloud is about to take the machine away.

Only this process asks the cloud, once for the whole machine; the command hears of it as one SIGTERM. The notice is
written to a file first, so that there is a trace even where saving fails. Standard library only: it runs on the
host, beside a container as well as without one.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

LINK_LOCAL = "http://169.254.169.254"
ALIBABA = "http://100.100.100.200/latest"
PATIENCE = 5
"""Seconds to wait for an answer of the metadata service, which is on the same machine."""

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # metadata never goes through a proxy


def fetch(url: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
    """The answer, or None where the service says that there is nothing. Raises OSError for any other trouble."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    try:
        with OPENER.open(request, timeout=PATIENCE) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def aws() -> object:
    """Two minutes' notice: {"action": "terminate", "time": …} (IMDSv2)."""
    token = fetch(f"{LINK_LOCAL}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT") or ""
    answer = fetch(f"{LINK_LOCAL}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    return json.loads(answer) if answer else None


def gcp() -> object:
    """Thirty seconds' notice: TRUE."""
    answer = fetch(f"{LINK_LOCAL}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return answer == "TRUE" or None


def azure() -> object:
    """Thirty seconds' notice or more: a Preempt event that names this machine; there are events of others too."""
    headers = {"Metadata": "true"}
    name = fetch(f"{LINK_LOCAL}/metadata/instance/compute/name?api-version=2021-02-01&format=text", headers)
    answer = fetch(f"{LINK_LOCAL}/metadata/scheduledevents?api-version=2020-07-01", headers)
    events = json.loads(answer or "{}").get("Events", [])
    return next((one for one in events if one["EventType"] == "Preempt" and name in one["Resources"]), None)


def alibaba() -> object:
    """Five minutes' notice: the time at which the machine goes. The token is needed in the hardened mode."""
    token = fetch(f"{ALIBABA}/api/token", {"X-aliyun-ecs-metadata-token-ttl-seconds": "60"}, "PUT") or ""
    answer = fetch(f"{ALIBABA}/meta-data/instance/spot/termination-time", {"X-aliyun-ecs-metadata-token": token})
    return answer or None


CLOUDS = {"aws": aws, "gcp": gcp, "azure": azure, "alibaba": alibaba}
VENDORS = {"Amazon EC2": "aws", "Google": "gcp", "Microsoft Corporation": "azure", "Alibaba Cloud": "alibaba"}


def cloud_of_this_machine() -> str | None:
    """What the machine's firmware says of its maker."""
    try:
        return VENDORS.get(Path("/sys/class/dmi/id/sys_vendor").read_text().strip())
    except OSError:
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: that of the command, so 75 where it has saved."""
    parser = argparse.ArgumentParser(
        description="Run a command on a spot machine, and send it SIGTERM when the cloud will take the machine away.",
        epilog="example: spot_watch.py --notice notice.json -- launch/node.sh -c configs/digits.yaml",
    )
    parser.add_argument("--cloud", choices=CLOUDS, help="whose machine this is (default: what its firmware says)")
    parser.add_argument("--notice", required=True, type=Path, metavar="FILE", help="where to write the notice")
    parser.add_argument("--every", type=float, default=2, metavar="SECONDS", help="how often to ask (default: 2)")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run, after --")
    options = parser.parse_args(argv)
    cloud = options.cloud or cloud_of_this_machine()
    if cloud is None:
        parser.error(f"this machine does not say whose it is: give --cloud {' or '.join(CLOUDS)}")
    return watch(cloud, options.notice, options.every, options.command)


def watch(cloud: str, notice_file: Path, every: float, command: Sequence[str]) -> int:
    """Run the command until it ends. It gets SIGTERM once: a second one would end it before it has saved."""
    process: subprocess.Popen | None = None
    asked_to_stop = False

    def stop(*_: object) -> None:
        nonlocal asked_to_stop
        if process is not None and not asked_to_stop:
            process.send_signal(signal.SIGTERM)
        asked_to_stop = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    # In a session of its own, it does not also hear the Ctrl-C that this process hears.
    process = subprocess.Popen(command, start_new_session=True)
    if asked_to_stop:
        process.send_signal(signal.SIGTERM)
    trouble = None
    while process.poll() is None:
        try:
            notice = CLOUDS[cloud]()
        except (OSError, ValueError, http.client.HTTPException) as error:
            notice = None
            if str(error) != trouble:
                say(f"the metadata service of {cloud} does not answer: {error}; asking again")
            trouble = str(error)
        if notice is not None and not asked_to_stop:
            say(f"{cloud} will take this machine away: {notice}")
            try:
                write(notice_file, {"time": time.time(), "cloud": cloud, "notice": notice})
            except OSError as error:
                say(f"{notice_file} cannot be written: {error}")
            stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(every)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def write(path: Path, value: object) -> None:
    """A JSON file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    with beside.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def say(text: str) -> None:
    """To stderr, where systemd and containers collect it."""
    print(f"spot_watch: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
