"""Short forms and ``--set``: one tree comes in, the same tree in its full form goes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pipeline.spec.document import Document, KeyPath, Place, Trap, join, label
from pipeline.spec.read import read
from pipeline.spec.scalars import flaw, plain

SHORT_FORMS: Final = {"input": "path", "prompt": "user", "model": "name", "output": "path", "notify": "command"}
SHELL: Final = ("/bin/sh", "-c")
SWITCHES: Final = ("media",)
# A block whose keys are all commented out is null to YAML; it means the same as no block.
MAY_BE_EMPTY: Final = (
    "name",
    "endpoint",
    "limits",
    "retry",
    "budget",
    "prices",
    "output",
    "answer",
    "media",
    "evaluate",
    "attachments",
    "expire",
    "alarm",
    "notify",
)
MAY_BE_EMPTY_BELOW: Final = (
    ("endpoint", "headers"),
    ("endpoint", "timeout_s"),
    ("prompt", "attachments"),
    ("output", "path"),
)

_ORDER_OF_OVERRIDES: Final = 1_000_000_000  # behind all lines of the file


def expand(document: Document) -> None:
    """Puts each short form in full; what it says of a place afterwards is what the user wrote."""
    tree: dict[str, Any] = document.tree
    for block, key in SHORT_FORMS.items():
        if block in tree and tree[block] is not None and not isinstance(tree[block], dict):
            tree[block] = {key: tree[block]}
            _move(document, (block,), (block, key))
    _switch(tree)
    source = tree.get("input")
    if isinstance(source, dict) and isinstance(source.get("path"), str | int | float | Trap):
        source["path"] = [source["path"]]
        document.places[("input", "path", 0)] = document.place(("input", "path"))
    prompt = tree.get("prompt")
    attachments: Any = prompt.get("attachments") if isinstance(prompt, dict) else None
    for index, one in enumerate(attachments if isinstance(attachments, list) else ()):
        if isinstance(one, str | int | float | Trap):
            attachments[index] = {"column": one}
            _move(document, ("prompt", "attachments", index), ("prompt", "attachments", index, "column"))
    told = tree.get("notify")
    if isinstance(told, dict) and isinstance(told.get("command"), str | int | float | Trap):
        told["command"] = [*SHELL, told["command"]]
        document.places[("notify", "command", len(SHELL))] = document.place(("notify", "command"))


def _switch(tree: dict[str, Any]) -> None:
    """``true`` stands for a block with all its defaults, ``false`` for none."""
    for block in SWITCHES:
        if tree.get(block) is True:
            tree[block] = {}
        elif tree.get(block) is False:
            del tree[block]


def _move(document: Document, old: KeyPath, new: KeyPath) -> None:
    """Places of a value that moves down; its old place stays, for the block that now stands there."""
    for path, place in list(document.places.items()):
        if path[: len(old)] == old:
            document.places[new + path[len(old) :]] = place


def drop_empty_blocks(document: Document) -> None:
    tree: dict[str, Any] = document.tree
    for block in MAY_BE_EMPTY:
        if block in tree and tree[block] is None:
            del tree[block]
    for block, key in MAY_BE_EMPTY_BELOW:
        inner = tree.get(block)
        if isinstance(inner, dict) and key in inner and inner[key] is None:
            del inner[key]


def override(document: Document, overrides: Sequence[str]) -> None:
    """``limits.concurrency=8`` replaces one value of an expanded tree."""
    for number, text in enumerate(overrides):
        written, equals, value = text.partition("=")
        keys = tuple(key.strip() for key in written.split("."))
        shown = join("", keys)
        place = Place(f"--set {shown}", shown, _ORDER_OF_OVERRIDES + number)
        if not equals or not all(keys):
            unclear = Place("--set", label(written), place.order)
            document.complain(("--set", number), "must look like limits.concurrency=8", place=unclear)
            continue
        try:
            found = _parse(value)
        except ValueError as error:
            document.complain(keys, str(error), place=place)
            continue
        _put(document, keys, found, place)


def _parse(text: str) -> Any:
    """Plain text as it stands, ': ' and '#' included; brackets and quotes as YAML. Its ValueError is for the user."""
    text = text.strip()
    if text[:1] not in ("{", "[", '"', "'") or text.startswith("{{"):
        value = plain(text)
        if isinstance(value, str) and (wrong := flaw(value)):
            raise ValueError(wrong)
        return value
    document = read(text)
    if document.problems:
        raise ValueError("has a value that is no valid YAML; check its quotes and brackets")
    return document.tree


def _put(document: Document, keys: tuple[str, ...], value: Any, place: Place) -> None:
    inner: dict[str, Any] = document.tree
    if keys[0] in SHORT_FORMS and len(keys) == 1 and not isinstance(value, dict) and value is not None:
        keys = (keys[0], SHORT_FORMS[keys[0]])
    for depth, key in enumerate(keys[:-1], 1):
        if inner.get(key) is None:
            inner[key] = {}
            document.places[keys[:depth]] = Place(place.origin, join("", keys[:depth]), place.order)
        if not isinstance(inner[key], dict):
            document.complain(keys, f"leads into {join('', keys[:depth])}, which is no block of keys", place=place)
            return
        inner = inner[key]
    inner[keys[-1]] = value
    for path in [path for path in document.places if path[: len(keys)] == keys]:
        del document.places[path]
    document.places[keys] = place
