"""Reads the images of a request: one as the body itself, several as a form or as base64 in JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
from collections.abc import Awaitable, Callable
from email.message import Message
from typing import Annotated, NamedTuple, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field as FormField
from python_multipart.multipart import File, FormParser
from starlette.requests import ClientDisconnect

from distcls.config.wording import count
from distcls.serving.options import Limits
from distcls.serving.problems import (
    BAD_REQUEST,
    BUSY,
    TOO_LARGE,
    TOO_SLOW,
    UNAVAILABLE,
    UNREADABLE,
    UNSUPPORTED,
    Problem,
)

T = TypeVar("T")

FORM, JSON, BINARY = "multipart/form-data", "application/json", "application/octet-stream"
SAGEMAKERS = "application/x-image"
"""What clients of SageMaker call an image of any kind."""

SMALL = 65_536
"""Bytes. Larger bodies are taken apart in a thread, so that other requests do not wait for it."""

BODIES_HELD = 16
"""Bodies of the largest size that are kept in memory at the same time."""

MOST_FIELDS = 100
"""Of a form, that are no files."""

Base64 = Annotated[str, Field(json_schema_extra={"format": "byte", "contentMediaType": "image/*"}, min_length=1)]


class Upload(NamedTuple):
    """An image file that was sent."""

    name: str | None
    content: bytes


class Encoded(BaseModel):
    """An image as Vertex AI sends it."""

    model_config = ConfigDict(extra="forbid")
    b64: Base64


class Images(BaseModel):
    """Images as base64, with or without `data:image/…;base64,` before it."""

    model_config = ConfigDict(extra="forbid")
    images: list[Base64] = Field(min_length=1)


class Instances(BaseModel):
    """Images as Vertex AI sends them."""

    model_config = ConfigDict(extra="ignore")
    instances: list[Encoded] = Field(min_length=1)


class Reader:
    """Reads bodies, with limits on their size, on the time they take, and on what is held of all of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._held = 0

    async def hold(self, request: Request, use: Callable[[bytes], Awaitable[T]]) -> T:
        """Return what `use` returns for the body of a request. Raises Problem, also if that takes too long."""
        _refuse_compressed(request)
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.limits.max_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size, has_arrived = 0, False
        try:
            async with asyncio.timeout(self.limits.timeout):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    size += len(chunk)
                    self._held += len(chunk)
                    if size > self.limits.max_bytes:
                        raise self._too_large()
                    if self._held > BODIES_HELD * self.limits.max_bytes:
                        raise Problem(BUSY, "too many large requests are being read. Try again later.")
                has_arrived = True
                return await use(b"".join(chunks))
        except TimeoutError as error:
            if has_arrived:
                raise Problem(UNAVAILABLE, f"there was no answer within {self.limits.timeout:g} s") from error
            raise Problem(TOO_SLOW, f"the request did not arrive within {self.limits.timeout:g} s") from error
        except ClientDisconnect as error:
            raise Problem(BAD_REQUEST, "the request ended early") from error
        finally:
            self._held -= size

    def _too_large(self) -> Problem:
        return Problem(TOO_LARGE, f"the request has more than {self.limits.max_bytes:,} bytes")

    async def uploads(self, request: Request, body: bytes) -> list[Upload]:
        """Return the images in the body of a request, at least one. Raises Problem."""
        kind, parameters = content_type(request)
        if kind.startswith("image/") or kind in ("", BINARY, SAGEMAKERS):
            if not body:
                raise Problem(UNREADABLE, "the body is empty: send an image")
            return [Upload(None, body)]
        if kind not in (FORM, JSON):
            raise Problem(
                UNSUPPORTED,
                f"Content-Type {kind} is not read: send an image as image/jpeg, image/png …, or several as {FORM} or "
                f"as base64 in {JSON}",
            )
        if kind == JSON:
            found = await apart(lambda: _in_json(body, self.limits.max_images), body)
        else:
            boundary = parameters.get("boundary", "")
            found = await apart(lambda: _in_form(body, boundary, self.limits.max_images), body)
        return found


async def apart(work: Callable[[], T], body: bytes) -> T:
    """Return what `work` does with a body; in a thread if the body is large."""
    return work() if len(body) <= SMALL else await asyncio.to_thread(work)


def content_type(request: Request) -> tuple[str, dict[str, str]]:
    """Return the type of a request's body in lower case, "" if there is none, and its parameters."""
    return _parsed(request.headers.get("content-type", ""))


@functools.lru_cache(maxsize=64)  # most clients always send the same
def _parsed(given: str) -> tuple[str, dict[str, str]]:
    message = Message()
    message["content-type"] = given
    (kind, _), *parameters = message.get_params(failobj=[("", "")])
    # Encoded ones, such as boundary*=UTF-8''x, are tuples; a boundary is never encoded.
    texts = {name.lower(): value for name, value in parameters if isinstance(value, str)}
    return kind.strip().lower() or given, texts


def _refuse_compressed(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise Problem(UNSUPPORTED, f"Content-Encoding {encoding} is not read: image files are compressed already")


def too_many(number: int, most: int) -> Problem:
    """Return the problem of a request with too many images."""
    return Problem(TOO_LARGE, f"{count(number, 'image')} in a request, and {most:,} are allowed: send several requests")


def first_error(error: ValidationError) -> str:
    """Return what is wrong first, and where."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def parse(model: type[BaseModel], body: bytes) -> BaseModel:
    """Return a body as a model. Raises Problem, with another status if it is no JSON at all."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        is_json = error.errors()[0]["type"] != "json_invalid"
        raise Problem(UNREADABLE if is_json else BAD_REQUEST, f"the JSON is wrong. {first_error(error)}") from error


def _in_json(body: bytes, most: int) -> list[Upload]:
    if body.lstrip()[:1] == b"{" and b'"instances"' in body[:SMALL]:
        instances = parse(Instances, body)
        assert isinstance(instances, Instances)
        texts = [one.b64 for one in instances.instances]
    else:
        images = parse(Images, body)
        assert isinstance(images, Images)
        texts = images.images
    if len(texts) > most:
        raise too_many(len(texts), most)
    return [Upload(None, from_base64(text, f"image {place}")) for place, text in enumerate(texts)]


def from_base64(text: str, name: str) -> bytes:
    """Return the bytes of an image, which may be a data URL. Raises Problem."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode("".join(text.split()), validate=True)  # many encoders break lines
    except (binascii.Error, ValueError) as error:
        raise Problem(UNREADABLE, f"{name} is not base64: {error}") from error
    if not content:
        raise Problem(UNREADABLE, f"{name} is empty")
    return content


def _in_form(body: bytes, boundary: str, most: int) -> list[Upload]:
    uploads: list[Upload] = []
    fields: list[FormField] = []
    ended: list[bool] = []

    def on_file(file: File) -> None:
        if len(uploads) == most:
            raise too_many(most + 1, most)
        file.file_object.seek(0)
        name = (file.file_name or b"").decode("utf-8", "replace")
        uploads.append(Upload(name or None, file.file_object.read()))

    def on_field(field: FormField) -> None:
        fields.append(field)
        if len(fields) > MOST_FIELDS:
            raise Problem(TOO_LARGE, f"a form with more than {MOST_FIELDS} fields")

    if not boundary:
        raise Problem(BAD_REQUEST, f"Content-Type {FORM} must name a boundary")
    try:
        parser = FormParser(
            FORM,
            on_field,  # type: ignore[arg-type]
            on_file,  # type: ignore[arg-type]
            lambda: ended.append(True),
            boundary=boundary.encode("latin-1", "replace"),
            config={"MAX_MEMORY_FILE_SIZE": float("inf")},
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError, AssertionError) as error:
        raise Problem(BAD_REQUEST, f"the form is broken: {error}") from error
    if not ended:
        raise Problem(BAD_REQUEST, "the form ends before its last boundary")
    if not uploads:
        raise Problem(UNREADABLE, "the form has no file: send each image as a file, such as curl -F images=@photo.jpg")
    return uploads
