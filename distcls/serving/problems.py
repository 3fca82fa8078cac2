"""Says why a request is refused: a status code and a sentence, which become the answer."""

from __future__ import annotations


class Problem(Exception):
    """The reason why a request, or one image of it, gets no prediction."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


BAD_REQUEST = 400
"""The request is broken: no such format, or it ends early."""
UNAUTHORIZED = 401
TOO_SLOW = 408
"""The request took longer to arrive than it may."""
TOO_LARGE = 413
UNSUPPORTED = 415
"""A body of another type than those that are read."""
UNREADABLE = 422
"""An image that cannot be decoded, or a value that is not what it should be."""
BUSY = 429
"""Too many images are waiting already."""
UNAVAILABLE = 503
"""The answer did not come in time, or not at all."""

REASONS = {
    BAD_REQUEST: "The request is broken.",
    UNAUTHORIZED: "The token is missing or wrong.",
    TOO_SLOW: "The request took too long to arrive.",
    TOO_LARGE: "Too many bytes, pixels or images.",
    UNSUPPORTED: "The body has a type that is not read.",
    UNREADABLE: "An image cannot be decoded, or a value is not what it should be.",
    BUSY: "Too many images are waiting. Try again later.",
    UNAVAILABLE: "There was no answer in time, or the service is stopping.",
}
"""Descriptions for the OpenAPI page."""
