"""A small server that speaks the Hugging Face Hub's API: enough to make repositories, to upload and to download."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_right"
COMMIT = "0" * 40
SECONDS_OF_SILENCE = 30


class HubStub(ThreadingHTTPServer):
    """Keeps what is uploaded. `repos` maps (kind, OWNER/NAME) to its files by name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.made: list[dict] = []
        """The requests to make a repository."""
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.silent_on = "nothing"
        """Part of the paths that get no answer."""
        self.may_write = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubStub

    def do_POST(self) -> None:
        body = self._body()
        if self._is_refused():
            return
        if self.path == "/api/repos/create":
            self._make(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/(models|spaces)/(\S+)/preupload/main", self.path):
            files = json.loads(body)["files"]
            modes = [
                {"path": one["path"], "uploadMode": _mode(one["path"]), "shouldIgnore": False, "oid": None}
                for one in files
            ]
            self._json({"files": modes})
        elif found := re.fullmatch(r"/(spaces/)?(\S+)\.git/info/lfs/objects/batch", self.path):
            self._json({"transfer": "basic", "objects": [self._lfs(one) for one in json.loads(body)["objects"]]})
        elif found := re.fullmatch(r"/api/(models|spaces)/(\S+)/commit/main", self.path):
            self._commit((found[1].removesuffix("s"), found[2]), body)
        else:
            self._json({"error": f"the stub does not know {self.path}"}, 404)

    def do_PUT(self) -> None:
        content = self._body()
        self.server.blobs[hashlib.sha256(content).hexdigest()] = content
        self._json({})

    def do_GET(self) -> None:
        if self._is_refused():
            return
        if self.path == "/api/whoami-v2":
            self._json({"type": "user", "name": "me", "fullname": "Me", "orgs": [], "auth": {"type": "access_token"}})
        elif found := re.fullmatch(r"/(\S+)/resolve/\w+/(\S+)", self.path):
            self._file(self.server.repos.get(("model", found[1]), {}).get(found[2]))
        else:
            self._json({"error": f"the stub does not know {self.path}"}, 404)

    do_HEAD = do_GET

    def _is_refused(self) -> bool:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.silent_on in self.path:
            time.sleep(SECONDS_OF_SILENCE)
            return True
        if "/resolve/" not in self.path and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
            return True
        return False

    def _make(self, wanted: dict) -> None:
        self.server.made.append(wanted)
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if not self.server.may_write or not name.startswith("me/"):
            self._json({"error": f"You don't have the rights to create a model under {name.partition('/')[0]}"}, 403)
            return
        kind = wanted.get("type") or "model"
        if (kind, name) in self.server.repos:
            self._json({"error": "You already created this repo", "url": f"{self.server.url}/{name}"}, 409)
            return
        self.server.repos[kind, name] = {}
        self._json({"url": f"{self.server.url}/{'spaces/' if kind == 'space' else ''}{name}", "name": name})

    def _lfs(self, one: dict) -> dict:
        return {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}}

    def _commit(self, repo: tuple[str, str], body: bytes) -> None:
        files = self.server.repos[repo]
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        address = f"{self.server.url}/{repo[1]}/commit/{COMMIT}"
        self._json({"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": ""})

    def _file(self, content: bytes | None) -> None:
        if content is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha256(content).hexdigest()
        self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, value: object, code: int = 200) -> None:
        self._answer(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".onnx", ".png")) else "regular"


@contextlib.contextmanager
def hub_stub() -> Iterator[HubStub]:
    with HubStub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
