"""What of a reply is kept: the headers that matter, and nothing that repeats our own key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline.errors import ProviderError

_KEPT = re.compile(
    r"(llm_provider-)?(retry-after(-ms)?|x-should-retry|x-(oneapi-)?request-id|([\w-]+-)?ratelimit-[\w-]+)"
    r"|rate_limit_type|x-simulator|content-type|location"
)
_NAMES_REMEMBERED = 256


class Incoming:
    """``secrets``: each as text and as bytes, as ``_outgoing.secrets_in`` gives them."""

    def __init__(self, secrets: Sequence[tuple[str, bytes]]) -> None:
        self._secrets = secrets
        self._names: dict[str, str | None] = {}

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The few that matter, with names in lower case. The first of two alike counts."""
        kept: dict[str, str] = {}
        names = self._names
        for name, value in headers.items():
            try:
                lower = names[name]
            except KeyError:
                lower = name.lower() if _KEPT.fullmatch(name.lower()) else None
                if len(names) < _NAMES_REMEMBERED:
                    names[name] = lower
            if lower is not None and lower not in kept:
                kept[lower] = self.text(value)
        return kept

    def body(self, chunks: Sequence[bytes]) -> bytes:
        """In one piece, without our own key, should the server have echoed it."""
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        for _, secret in self._secrets:
            if secret in body:
                body = body.replace(secret, b"[key]")
        return body

    def text(self, text: str) -> str:
        for secret, _ in self._secrets:
            if secret in text:
                text = text.replace(secret, "[key]")
        return text

    def error(self, error: ProviderError) -> ProviderError:
        """Once more after parsing: an escape like \\u0073k- hides a key from ``body``."""
        error.args = tuple(self.text(arg) if isinstance(arg, str) else arg for arg in error.args)
        error.raw = error.raw and self.text(error.raw)
        return error
