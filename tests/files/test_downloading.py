"""A server that says nothing ends a download, and nothing else that the process does."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from distcls.files import downloading
from distcls.files.downloading import ending_when_silent


def test_a_silent_server_ends_a_download(monkeypatch):
    monkeypatch.setattr(downloading, "SECONDS_WITHOUT_DATA", 0.2)
    before = socket.getdefaulttimeout()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(OSError, match="timed out"),
        ending_when_silent(),
    ):
        urllib.request.urlopen(f"http://127.0.0.1:{server.getsockname()[1]}/file")
    assert socket.getdefaulttimeout() == before
