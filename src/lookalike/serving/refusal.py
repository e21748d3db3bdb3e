"""Requests that are refused: the status code and the message for the client."""

from collections.abc import Mapping


class Refused(Exception):
    """A request that cannot be answered."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class Gone(Exception):
    """The client closed its connection before its request was complete."""
