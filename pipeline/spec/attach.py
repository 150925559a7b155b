"""What goes along with a prompt: pictures, documents and sounds."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from pipeline.spec.block import Block, Positive, Words

SOURCES = ("column", "file", "url")


def _address(url: str) -> str:
    if url[:5].lower() == "data:":
        return url
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        known = False
    if not known or any(char <= " " for char in url):
        raise ValueError("must be an http(s):// or data: address without blanks; a local file is `file:`")
    return url


class AttachmentSpec(Block):
    """One attachment of every row, or of those whose cell is filled."""

    column: Words | None = Field(default=None, description="Column that holds an address, or a path below the root.")
    file: Words | None = Field(default=None, description="The same file for every row; a path below attachments.root.")
    url: Annotated[Words, AfterValidator(_address)] | None = Field(
        default=None, description="The same http(s) or data: address for every row; it is passed on, never fetched."
    )
    form: Literal["image_url", "file", "file_url", "input_audio"] | None = Field(
        default=None, alias="as", description="The content part it becomes; by its type when not given."
    )
    optional: bool = Field(default=False, description="A null or blank cell attaches nothing, and is no fault.")
    detail: Literal["low", "high", "auto"] | None = Field(
        default=None, description="How closely the model looks at an image_url."
    )

    @model_validator(mode="after")
    def _whole(self) -> AttachmentSpec:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            seen = f"not {' and '.join(given)} together" if given else "and has none"
            raise ValueError(f"must have one of column, file, url, {seen}")
        if self.optional and self.column is None:
            raise ValueError("is the same for every row, so optional has no meaning; remove it")
        if self.detail is not None and self.form not in (None, "image_url"):
            raise ValueError(f"has detail, which only an image_url knows, not a {self.form}; remove one")
        if self.form == "input_audio" and self.url is not None and self.url[:5].lower() != "data:":
            raise ValueError("is an http(s) address, and input_audio carries its content; name a local file")
        return self


class AttachmentsBlock(Block):
    root: Words | None = Field(
        default=None, description="Folder of local files; nothing outside is ever read. Without it, addresses only."
    )
    max_mb: Positive = Field(default=20.0, le=1_000, description="The largest file that is attached, in megabytes.")
    max_tokens: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="Most prompt tokens that one attachment costs; a budget needs it."
    )
