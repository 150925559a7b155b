"""The ``endpoint`` block: an address, and the name of the variable that holds its key."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from pipeline.spec.block import Block, Positive
from pipeline.spec.secrets import LOGIN_REFUSED, REFUSED, is_random, looks_like_key

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_KEY_HEADERS: Final = re.compile(r"(?i).*(?:authorization|cookie|api-?_?key|token|secret|password).*|key")
_IDENTITY_HEADERS: Final = re.compile(r"(?i).*(?:organization|project|id)")  # random by nature, and no secret
_OUR_HEADERS: Final = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "accept-encoding"}
)


def _variable_name(name: str) -> str:
    """Its errors do not show the value: it may be the key itself."""
    if looks_like_key(name) or (is_random(name) and "_" not in name):
        raise ValueError(f"holds what looks like a key; {REFUSED}")
    if not _VARIABLE.fullmatch(name):
        raise ValueError("must be the name of an environment variable, such as GPTPROTO_API_KEY (letters, digits, _)")
    return name


def _url(text: str, example: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ValueError(f"must be an address such as {example}")
    if not text.isprintable() or " " in text:
        raise ValueError(f"has a blank or a control character in it; write an address such as {example}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(LOGIN_REFUSED)
    return parts


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy(text: str) -> str:
    _url(text, "http://proxy.example:3128")
    return text


class TimeoutSpec(Block):
    connect: Positive = Field(default=10.0, description="Seconds until a connection must stand.")
    total: Positive = Field(default=600.0, description="Seconds until the whole reply must be there.")
    idle: Positive = Field(
        default=120.0, description="Longest silence between two pieces of a stream, in seconds; comments are pieces."
    )


class EndpointSpec(Block):
    """``base_url`` has no trailing slash; https, or http where that is safe or allowed."""

    kind: Literal["chat"] = Field(default="chat", description="How the endpoint is spoken to.")
    allow_http: bool = Field(  # stands before base_url, whose check looks at it
        default=False, description="Allow an http:// base_url that is not on this machine: the key travels unencrypted."
    )
    base_url: str = Field(
        default="https://gptproto.com/v1", description="Address of the API up to its version; no query, no password."
    )
    api_key_env: Annotated[str, AfterValidator(_variable_name)] = Field(
        default="GPTPROTO_API_KEY",
        description="NAME of the environment variable that holds the key. A key in a spec is refused.",
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="Further HTTP headers of each request; none that carries a key."
    )
    stream: bool = Field(
        default=False, description="Ask for replies as a stream of events: a long answer is never silent for long."
    )
    timeout_s: TimeoutSpec = Field(default_factory=TimeoutSpec, description="Time limits of one attempt, in seconds.")
    proxy: Annotated[str, AfterValidator(_proxy)] | None = Field(
        default=None, description="HTTP proxy, such as http://proxy.example:3128."
    )
    max_reply_mb: Positive = Field(default=16.0, description="A larger reply is refused, in megabytes.")

    @field_validator("base_url")
    @classmethod
    def _address(cls, text: str, info: ValidationInfo) -> str:
        parts = _url(text, "https://gptproto.com/v1")
        if "?" in text or "#" in text:
            raise ValueError("has a query or a fragment; write the address only, up to its version")
        path = parts.path.rstrip("/")
        if path.endswith("/chat/completions"):
            raise ValueError("must end before /chat/completions, which is added by the endpoint's kind")
        if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not info.data.get("allow_http"):
            raise ValueError("is http://, where anyone on the way reads the key; use https://, or allow_http: true")
        return text.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _no_key_in_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        names = [name.lower() for name in headers]
        for name, value in headers.items():
            _check_header(name, value)
            if names.count(name.lower()) > 1:
                raise ValueError(f"has the header {name} twice; case does not matter in a header's name")
        return headers


def _check_header(name: str, value: str) -> None:
    """Never shows a value."""
    if looks_like_key(name) or is_random(name):
        raise ValueError(f"has a name that looks like a key; {REFUSED}")
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError("has a name that is no header's name; use letters, digits and -")
    if _KEY_HEADERS.fullmatch(name):
        raise ValueError(f"has {name}, which carries a key; {REFUSED}")
    if name.lower() in _OUR_HEADERS:
        raise ValueError(f"has {name}, which the client sets itself; remove it")
    if looks_like_key(value) or (is_random(value) and " " not in value and not _IDENTITY_HEADERS.fullmatch(name)):
        raise ValueError(f"has a value under {name} that looks like a key; {REFUSED}")
    if not value.isascii() or not value.isprintable():
        raise ValueError(f"has a value under {name} with a line break or a character outside ASCII")
