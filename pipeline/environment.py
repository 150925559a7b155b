"""What a run takes from the environment: a file of variables when it is named, and never a proxy unasked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from urllib.parse import urlsplit

from pipeline.errors import SpecError

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_MOST_BYTES = 1 << 20
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(?:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:\#.*)?""")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def load_env_file(path: str, environ: MutableMapping[str, str]) -> None:
    """KEY=VALUE lines into ``environ``, which wins where it has a variable already. Raises SpecError, without a value
    in its words."""
    for name, value in _variables(_text(path), path):
        environ.setdefault(name, value)


def _text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
        with os.fdopen(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            if mode & 0o077:
                raise SpecError(
                    f"--env-file {path} is open to others (mode {mode & 0o777:04o}), and keys are in it; "
                    f"make it yours alone: chmod 600 {path}"
                )
            data = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise SpecError(f"--env-file {path} cannot be read: {exc.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise SpecError(f"--env-file {path} is larger than 1 MB; it should hold a few KEY=VALUE lines")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"--env-file {path} is not UTF-8 text") from None


def _variables(text: str, path: str) -> Iterator[tuple[str, str]]:
    """The last of several lines for one variable counts, as in a shell."""
    found: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        value = _value(match[2]) if match else None
        if match is None or value is None:
            what = f"the quote of {match[1]} is not closed in its line" if match else "it should be KEY=VALUE"
            raise SpecError(f"--env-file {path} line {number}: {what} (what stands there is not shown)")
        if "\0" in value:
            raise SpecError(f"--env-file {path} line {number}: {match[1]} has a NUL character in it")
        found[match[1]] = value
    yield from found.items()


def _value(text: str) -> str | None:
    """Quotes taken off, a comment cut off; nothing is expanded. None for a quote that is not closed."""
    if text[:1] not in ("'", '"'):
        return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].rstrip()
    match = _QUOTED.fullmatch(text)
    if match is None:
        return None
    if match[1] is not None:
        return match[1]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), match[2])


def ignored_proxies(environ: Mapping[str, str], proxy: str | None) -> dict[str, str]:
    """Variables that other programs would take a proxy from, with its address but no login in it. None when the spec
    names a proxy: then somebody has chosen."""
    if proxy is not None:
        return {}
    found = {}
    for name in (*PROXIES, *(name.lower() for name in PROXIES)):
        if environ.get(name, "").strip():
            found[name] = _address(environ[name].strip())
    return found


def _address(proxy: str) -> str:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"//{proxy}")
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.hostname}{port}" if parts.hostname else "an address that cannot be read"
    except ValueError:
        return "an address that cannot be read"
