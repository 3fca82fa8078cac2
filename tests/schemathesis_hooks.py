"""Teaches schemathesis what an image is: to a JSON schema it is any text."""

from __future__ import annotations

import base64

import schemathesis
from hypothesis import strategies
from served import png

FILES = strategies.integers(0, 255).map(png)

for kind in ("image/png", "image/jpeg", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, FILES)
schemathesis.openapi.format("binary", FILES)
schemathesis.openapi.format("byte", FILES.map(lambda content: base64.b64encode(content).decode()))
