"""Images in requests: files of a multipart form, or JSON with base64. Names from clients are used in messages only."""

import binascii
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..files import parse_json
from ..printing import brief, counted, printable, shown
from .refusal import Refused

FIELD = "images"
"""Name of the form's field, and of the list in JSON."""


@dataclass(frozen=True)
class Upload:
    """The content of an image file."""

    name: str
    """For messages: the client's name of the file, or "image 3"."""
    content: bytes


@dataclass
class Form:
    """Collects the files of a form as they arrive."""

    max_images: int
    uploads: list[Upload] = field(default_factory=list)
    complete: bool = False
    _content: bytearray = field(default_factory=bytearray)
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _disposition: str = ""

    def begin_part(self) -> None:
        if len(self.uploads) == self.max_images:
            raise too_many(self.max_images)
        self._content, self._disposition = bytearray(), ""

    def begin_header(self) -> None:
        self._header = (bytearray(), bytearray())

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def end_header(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1].decode("utf-8", "replace")

    def data(self, data: bytes, start: int, end: int) -> None:
        self._content.extend(memoryview(data)[start:end])

    def end_part(self) -> None:
        # the parser encodes what it finds as Latin-1, which has no character for most of Unicode
        name = _parameter(self._disposition, "name")
        if name != FIELD:
            raise Refused(422, f"The form has a field {shown(name)}. Send every image as a file of the field {FIELD}.")
        file = printable(brief(_parameter(self._disposition, "filename"))) or _numbered(len(self.uploads))
        self.uploads.append(Upload(file, bytes(self._content)))
        self._content = bytearray()

    def end(self) -> None:
        self.complete = True


async def from_form(stream: AsyncIterator[bytes], content_type: str, max_images: int) -> list[Upload]:
    """The files of a form.

    Raises:
        Refused: it is malformed (400), has too many files (413), other fields or no files (422).
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Refused(400, "Content-Type states no boundary. Let the HTTP library write it.")
    form = Form(max_images)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin_part, "on_part_data": form.data, "on_part_end": form.end_part,
                "on_header_begin": form.begin_header, "on_header_field": form.header_name,
                "on_header_value": form.header_value, "on_header_end": form.end_header, "on_end": form.end,
            },
        )  # fmt: skip
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise Refused(400, f"The form is malformed ({brief(error)}). Let an HTTP library write it.") from None
    if not form.complete:
        raise Refused(400, "The form has no end. Let an HTTP library write it.")
    if not form.uploads:
        raise none(f"Send image files as the field {FIELD}.")
    return form.uploads


def from_json(body: bytes | bytearray, max_images: int) -> list[Upload]:
    """The files in `{"images": ["base64", ...]}`.

    Raises:
        Refused: it is malformed (400), has too many images (413), or others than these (422).
    """
    found = read_object(body)
    if {*found} != {FIELD} or not isinstance(found[FIELD], list):
        raise Refused(422, f'The JSON has {sorted(map(brief, found))}. Send {{"{FIELD}": ["base64 of a file", ...]}}.')
    images = found[FIELD]
    if len(images) > max_images:
        raise too_many(max_images)
    if not images:
        raise none(f'Send {{"{FIELD}": ["base64 of a file", ...]}}.')
    return [Upload(_numbered(i), _decoded(each, _numbered(i))) for i, each in enumerate(images)]


def read_object(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        Refused: it is none (400).
    """
    try:
        found: dict[str, Any] = parse_json(bytes(body).decode("utf-8"), "The body", dict)
    except ValueError as error:  # also for text that is not UTF-8
        raise Refused(400, f"{brief(error)} Send a JSON object.") from None
    return found


def _decoded(text: object, name: str) -> bytes:
    if not isinstance(text, str):
        raise Refused(422, f"{name}: {shown(text)} is no text. Send the base64 of an image file.")
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError as error:
        raise Refused(422, f"{name}: not base64 ({brief(error)}). Send the base64 of an image file.") from None


def too_many(maximum: int) -> Refused:
    return Refused(413, f"The request has more than {counted(maximum, 'image')}, the limit of --max-batch. Send fewer.")


def none(advice: str) -> Refused:
    return Refused(422, f"The request has no images. {advice}")


def _parameter(header: str, name: str) -> str:
    """A parameter of Content-Disposition; "" if it is missing."""
    found = re.search(rf';\s*{name}=(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))', header, re.IGNORECASE)
    return "" if found is None else re.sub(r"\\(.)", r"\1", found[1]) if found[1] is not None else found[2]


def _numbered(index: int) -> str:
    return f"image {index + 1}"
