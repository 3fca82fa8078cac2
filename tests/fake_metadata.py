"""What a cloud's machines ask about themselves: `python fake_metadata.py CLOUD FILE`.

There is a notice when FILE exists. Requests that the real service would refuse are refused.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

ADDRESSES = {
    "aws": "169.254.169.254",
    "gcp": "169.254.169.254",
    "azure": "169.254.169.254",
    "alibaba": "100.100.100.200",
}
TOKENS = {
    "aws": ("X-aws-ec2-metadata-token", "/latest/meta-data/spot/instance-action"),
    "alibaba": ("X-aliyun-ecs-metadata-token", "/latest/meta-data/instance/spot/termination-time"),
}
NOTICES = {
    "aws": '{"action": "terminate", "time": "2030-01-01T08:22:00Z"}',
    "alibaba": "2030-01-01T18:02:00Z",
}


def answer(cloud: str, method: str, path: str, headers: dict[str, str], noticed: bool) -> tuple[int, str]:
    """Status and body."""
    if cloud in TOKENS:
        header, notice_path = TOKENS[cloud]
        if (method, path) == ("PUT", "/latest/api/token"):
            return (200, "secret") if f"{header}-ttl-seconds".lower() in headers else (400, "")
        if headers.get(header.lower()) != "secret":
            return 401, ""
        return (200, NOTICES[cloud]) if path == notice_path and noticed else (404, "")
    if cloud == "gcp":
        if headers.get("metadata-flavor") != "Google":
            return 403, ""
        return (200, "TRUE" if noticed else "FALSE") if path == "/computeMetadata/v1/instance/preempted" else (404, "")
    if headers.get("metadata") != "true" or "api-version=" not in path:
        return 400, ""
    if path.startswith("/metadata/instance/compute/name?"):
        return 200, "trainer_7"
    others = [("Preempt", "trainer_8"), ("Freeze", "trainer_7")]
    events = [*others, ("Preempt", "trainer_7")] if noticed else others
    return 200, json.dumps({"Events": [{"EventType": kind, "Resources": [name]} for kind, name in events]})


class Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, body = answer(sys.argv[1], self.command, self.path, headers, Path(sys.argv[2]).exists())
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    do_PUT = do_GET


if __name__ == "__main__":
    service = HTTPServer((ADDRESSES[sys.argv[1]], 80), Service)
    print("listening", flush=True)
    service.serve_forever()
