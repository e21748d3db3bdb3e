"""Bodies of requests: read as a stream, within limits of bytes and time."""

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..printing import counted, shown, size_of
from .refusal import Gone, Refused

SECONDS = 60.0
"""Time for a body to arrive."""
DISCARD_SECONDS = 2.0
"""Time to read what a refused client still sends: closing at once would lose the answer on its way."""
DISCARDED = 2**26
"""Bytes of that, at most."""


async def chunks(request: Request, maximum: int, reserve: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The body of a request in pieces.

    Args:
        maximum: bytes of the body.
        reserve: called with the number of bytes so far, before they are stored.

    Raises:
        Refused: more bytes (413), too slow (408), compressed (415), or no room for it (429).
        Gone: the client closed the connection.
    """
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise Refused(415, f"The body is compressed ({shown(encoding)}). Send it without Content-Encoding.")
    too_large = Refused(
        413, f"The body has more than {size_of(maximum)}, the limit of --max-upload-mb. Send fewer images per request."
    )
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > maximum:
        raise too_large
    until, total, complete = asyncio.get_running_loop().time() + SECONDS, 0, False
    while not complete:
        try:
            async with asyncio.timeout_at(until):
                message = await request.receive()
        except TimeoutError:
            raise Refused(
                408, f"The body did not arrive within {counted(SECONDS, 'second')}. Send fewer images per request."
            ) from None
        if message["type"] == "http.disconnect":
            raise Gone
        body = message.get("body", b"")
        total += len(body)
        if total > maximum:
            raise too_large
        reserve(total)  # what has arrived, not what is announced: a client that sends nothing takes no room
        yield body
        complete = not message.get("more_body", False)


async def whole(request: Request, maximum: int, reserve: Callable[[int], None]) -> bytearray:
    """The body of a request; see `chunks`."""
    body = bytearray()
    async for chunk in chunks(request, maximum, reserve):
        body += chunk
    return body


class Courteous:
    """An app whose answers reach clients that are still sending: the rest of the body is read first, within limits.

    After a body that does not end the connection is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        complete = b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"
        untouched = True

        async def receiving() -> Message:
            nonlocal complete, untouched
            untouched = False
            message = await receive()
            complete = complete or message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def discard() -> None:
            total = 0
            try:
                async with asyncio.timeout(DISCARD_SECONDS):
                    while not complete and total < DISCARDED:
                        total += len((await receiving()).get("body", b""))
            except TimeoutError:
                pass

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and not complete:
                if not (untouched and b"expect" in headers):  # such a client sends nothing before it is asked to
                    await discard()
                if not complete:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self.app(scope, receiving, sending)
