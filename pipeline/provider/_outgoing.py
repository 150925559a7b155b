"""What every request carries: address, headers, and the key, which is named in no message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from pipeline.errors import SpecError

_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)
# Shorter ones are words like EMPTY or dummy, for servers that ask for none; blotting them out would maim answers.
_SECRET_CHARS = 12
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def split(base_url: str) -> tuple[str, str, str]:
    """What goes before a call's path, what goes behind it, and what an error message may show of both."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError("endpoint.base_url must begin with https:// (or http://) and a host")
    if "@" in parts.netloc:
        raise SpecError("endpoint.base_url holds a user name or a password (not shown); name a key's variable instead")
    address = f"{parts.scheme}://{parts.netloc}"
    return f"{address}{parts.path.rstrip('/')}", f"?{parts.query}" if parts.query else "", address


def headers_of(key: str | None, extra: Mapping[str, str], user_agent: str) -> dict[str, str]:
    """What every request carries. Headers of the spec go before ours; their names know no case."""
    headers = {
        "User-Agent": user_agent,
        "Accept": "application/json",
        "Accept-Encoding": "identity",  # a packed reply could unpack to anything
        "Content-Type": "application/json",
    }
    if key is not None:
        headers["Authorization"] = f"Bearer {_checked_key(key)}"
    ours = {name.lower(): name for name in headers}
    for name, value in extra.items():
        if not _HEADER_NAME.fullmatch(name):
            raise SpecError(f"endpoint.headers: {name!r} is not the name of a header")
        if not _is_header_value(value):
            raise SpecError(
                f"endpoint.headers.{name}: the value holds a control character or one outside Latin-1 "
                "(it is not shown); remove it"
            )
        headers.pop(ours.get(name.lower(), ""), None)
        headers[name] = value.strip()
    return headers


def _checked_key(key: str) -> str:
    key = key.strip()
    if not key:
        raise SpecError("the API key is empty; put it into the variable that endpoint.api_key_env names")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SpecError(
            "the API key holds a space, a line break or another character that no key has (it is not shown); "
            "copy it again into the variable that endpoint.api_key_env names"
        )
    return key


def _is_header_value(value: str) -> bool:
    return not re.search(r"[^\t\x20-\x7e\xa0-\xff]", value)


def secrets_in(headers: Mapping[str, str]) -> tuple[tuple[str, bytes], ...]:
    found = (value.removeprefix("Bearer ") for name, value in headers.items() if _SECRET_NAME.search(name))
    return tuple((secret, secret.encode("latin-1")) for secret in found if len(secret) >= _SECRET_CHARS)
