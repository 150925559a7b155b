"""One row's cells make its attachments.

A cell holds an http(s) address, which is passed on and never fetched; a ``data:`` address, whose content is taken out;
or the path of a local file, whose content is read when it is needed. A content is known by what is in it: the same
picture is the same question under any name, from a file or in the table itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from pipeline.attachments.sniff import KNOWN, family, family_of_suffix, media_type
from pipeline.errors import SpecError, Unattachable
from pipeline.records import Attachment, Value

_FORMS = {"image": "image_url", "pdf": "file", "audio": "input_audio"}
_TAKES = {"image_url": ("image", "pdf"), "input_audio": ("audio",)}
_ENDINGS = {"application/pdf": "pdf", "audio/mpeg": "mp3", "audio/mp4": "m4a", "image/jpeg": "jpg"}
_ADDRESS = re.compile(r"\s*(?:https?|data):", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")

_LONGEST_PATH = 4_096
_SHOWN = 150

Read = Callable[[str], bytes]
"""The content of a local file, by the path that the table or the spec gives. Raises Unattachable."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One attachment as the job asks for it: of ``column``, ``file`` and ``url`` one is given."""

    column: str | None = None
    file: str | None = None
    url: str | None = None
    form: str | None = None
    optional: bool = False
    detail: str | None = None


class Attach:
    """What a job attaches. Raises SpecError for something fixed that cannot be attached."""

    def __init__(self, wanted: Sequence[Wanted], read: Read | None, max_bytes: int) -> None:
        self._read = read
        self._max_bytes = max_bytes
        # What is the same for every row is read once: no row of a run gets another version of it.
        self._made = [(one, None if one.column is not None else self._fixed(one, at)) for at, one in enumerate(wanted)]
        self.columns = tuple(dict.fromkeys(one.column for one in wanted if one.column is not None))
        self.reads_files = read is not None and bool(self.columns)
        """A row's attachments may change while its cells stay."""

    @property
    def question(self) -> list[object]:
        """All that decides what is asked about any row: the fixed ones by their content."""
        return [
            [
                one.column,
                one.form,
                one.optional,
                one.detail,
                *(() if same is None else (same.url, same.sha256, same.name)),
            ]
            for one, same in self._made
        ]

    def of(self, fields: Mapping[str, Value]) -> tuple[Attachment, ...]:
        """In the order of the spec. Raises Unattachable, which says what to do."""
        found = []
        for one, same in self._made:
            made = same if same is not None else self._from_cell(one, fields[one.column or ""])
            if made is not None:
                found.append(made)
        return tuple(found)

    def paths(self, fields: Mapping[str, Value]) -> Iterator[str]:
        """The local files that a row names; they need not be there."""
        for one, same in self._made:
            text = "" if same is not None or one.column is None else _text(fields[one.column])
            if text and not is_address(text):
                yield text

    def _fixed(self, one: Wanted, at: int) -> Attachment:
        name = "url" if one.file is None else "file"
        try:
            return self._make(one, one.url) if one.url is not None else self._local(one, one.file or "")
        except Unattachable as exc:
            raise SpecError(f"prompt.attachments[{at}].{name}: {exc}") from None

    def _from_cell(self, one: Wanted, value: Value) -> Attachment | None:
        text = _text(value)
        try:
            if text:
                return self._make(one, text) if _SCHEME.match(text) else self._local(one, text)
            if one.optional:
                return None
            raise Unattachable("is empty; fill it, or say optional: true if it may be")
        except Unattachable as exc:
            raise Unattachable(f"attachment column {one.column!r}: {exc}") from None

    def _make(self, one: Wanted, address: str) -> Attachment:
        what = "the address"  # never shown: it may be signed, or megabytes long
        if address[:5].lower() == "data:":
            return self._carried(one, _content_of(address, self._max_bytes), None, what)
        if is_address(address):
            return _linked(one, address, what)
        if self._read is not None and "://" not in address:
            return self._local(one, address)  # a name with a colon in it
        raise Unattachable(f"{what} is none that can be passed on; use http(s), data:, or a local file")

    def _local(self, one: Wanted, path: str) -> Attachment:
        if len(path) > _LONGEST_PATH:
            raise Unattachable(
                f"this is no path, with {len(path):,} characters; a content is written data:TYPE;base64,CONTENT"
            )
        what = repr(path[:_SHOWN])
        if self._read is None:
            raise Unattachable(f"{what} is no address; local files need attachments.root, the folder they are in")
        return self._carried(one, self._read(path), path.rpartition("/")[2], what)

    def _carried(self, one: Wanted, content: bytes, name: str | None, what: str) -> Attachment:
        kind = media_type(content)
        if kind is None:
            raise Unattachable(f"{what} is nothing that can be attached, by its first bytes; known are {KNOWN}")
        form = one.form or ("image_url" if one.detail else _FORMS[family(kind)])
        if family(kind) not in _TAKES.get(form, (family(kind),)):
            takes = " or ".join(_TAKES[form])
            raise Unattachable(
                f"{what} is {kind}, and {form} takes {takes}; mend the file, or name another form in `as`"
            )
        ending = _ENDINGS.get(kind, kind.partition("/")[2])
        digest = hashlib.sha256(content).hexdigest()
        return Attachment(form, kind, name or f"attachment.{ending}", None, content, digest, one.detail)


def _text(value: Value) -> str:
    return "" if value is None else str(value).strip()


def is_address(value: Value) -> bool:
    """Whether a cell holds no path at all, whatever stands behind."""
    return _ADDRESS.match(str(value)) is not None


def _linked(one: Wanted, url: str, what: str) -> Attachment:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise Unattachable(f"{what} names no host; write it as https://HOST/PATH")
    if any(char <= " " or char == "\x7f" for char in url):
        raise Unattachable(f"{what} has blanks or control characters in it; write a blank as %20")
    guess = family_of_suffix(parts.path)
    form = one.form or ("image_url" if one.detail else _FORMS[guess or "image"])
    if form == "input_audio":
        raise Unattachable(
            f"{what} is http(s), and input_audio carries its content, which is never fetched; "
            "give a local file, or name another form in `as`"
        )
    return Attachment(form, None, unquote(parts.path.rpartition("/")[2]) or "attachment", url, detail=one.detail)


def _content_of(address: str, max_bytes: int) -> bytes:
    """Of a ``data:`` address. Its own word on the type is not taken: what is in it tells."""
    head, comma, data = address.partition(",")
    if not comma:
        raise Unattachable("the data: address has no comma; write data:TYPE;base64,CONTENT")
    if len(data) > 3 * max_bytes + 4:  # at three characters a byte, every one of them escaped
        raise Unattachable(_too_large(max_bytes))
    try:
        raw = unquote_to_bytes(data)
        in_base64 = head.rpartition(";")[2].strip().lower() == "base64"
        content = base64.b64decode(b"".join(raw.split()), validate=True) if in_base64 else raw
    except (binascii.Error, ValueError):
        raise Unattachable("the data: address is no whole base64; write the content anew") from None
    if not content:
        raise Unattachable("the data: address is empty; fill it")
    if len(content) > max_bytes:
        raise Unattachable(_too_large(max_bytes))
    return content


def _too_large(max_bytes: int) -> str:
    return f"the data: address holds more than attachments.max_mb ({max_bytes / 1_000_000:g} MB); shrink it"
