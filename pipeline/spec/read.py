"""YAML in, plain values with their lines out.

YAML is larger than a job spec wants. Refused here: aliases (306 bytes of them can expand to 387 million values), tags,
several documents, duplicate keys (the last would win in silence), deep nesting. Plain scalars are read by ``scalars``.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from pipeline.spec.document import Document, KeyPath, Place, Problem, Trap, join, quoted
from pipeline.spec.scalars import flaw, plain

MAX_DEPTH: Final = 64
_OPENING_BRACES: Final = "begins with {{ outside quotes, which YAML takes for a mapping; write it in quotes"

# PyYAML's words (never shown: they may quote the file) and ours.
_CURES: Final = (
    ("found character '\\t'", "has a tab here; YAML indents with spaces"),
    ("mapping values are not allowed", "has a second ': ' in one line, or a wrong indentation; put the text in quotes"),
    ("could not find expected ':'", "has a key without ': ' here, or a text that goes on unindented"),
    ("found unexpected end of stream", "has a quote here that is never closed"),
    ("found unexpected document separator", "has a quote here that is never closed"),
    ("found another document", "is a second document (---); a spec is one document"),
    ("expected <block end>", "does not fit the lines before it; check the indentation, and put text in quotes whole"),
    ("expected ',' or", "has a bracket that is not closed, or a comma missing; check the brackets"),
    ("cannot start any token", "has a value that begins with a special character; put it in quotes"),
    ("escape", "has an unknown \\ sequence in double quotes; write \\\\ for a backslash, or use single quotes"),
)


class _Refused(yaml.MarkedYAMLError):
    """A construct we do not take; ``problem`` is in our own words."""


class _Composer(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refused(
                "has an alias or an anchor, which a spec may not use; put a text with * or & in quotes", event
            )
        if event.tag is not None:
            raise _refused("has a tag, which a spec may not use; put a text that begins with ! in quotes", event)
        if self.depth >= MAX_DEPTH:
            raise _refused(f"is nested more than {MAX_DEPTH} levels deep; a spec is flat", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _refused(problem: str, event: Any) -> _Refused:
    return _Refused(problem=problem, problem_mark=event.start_mark)


def read(text: str) -> Document:
    """Never raises for what stands in ``text``; a problem of the syntax leaves ``tree`` at None."""
    document = Document()
    try:
        loader = _Composer(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        _syntax_problem(document, text, error)
        return document
    except (ValueError, OverflowError, RecursionError, IndexError):
        # PyYAML lets these out of its scanner, without a line: \UFFFFFFFF, %YAML with 5000 digits.
        document.complain((), "is no valid YAML: it holds an impossible escape or number", place=Place("YAML", "it", 0))
        return document
    if node is not None:
        document.places[()] = Place(_line(node), "", node.start_mark.line + 1)
        document.tree = _value(document, node, ())
    return document


def _syntax_problem(document: Document, text: str, error: yaml.YAMLError) -> None:
    line, cure = 1, "is no valid YAML; check quotes, colons and indentation"
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        cure = "has a control character; write it as an escape in double quotes"
    elif isinstance(error, yaml.MarkedYAMLError):
        cures = [ours for theirs, ours in _CURES if theirs in (error.problem or "")]
        cure = (error.problem or cure) if isinstance(error, _Refused) else (cures or [cure])[0]
        unclosed = "never closed" in cure and error.context_mark is not None
        mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        if not isinstance(error, _Refused) and _braces_near(text, line):
            cure = f"has a value that {_OPENING_BRACES}"
    document.complain((), cure, place=Place(f"line {line}", "this line", line))


def _braces_near(text: str, line: int) -> bool:
    near = text.splitlines()[max(0, line - 2) : line]
    return any(re.search(r"(?::|^\s*-)\s+\{\{", candidate) for candidate in near)


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _value(document: Document, node: yaml.Node, path: KeyPath) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, node, path)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            here = (*path, index)
            document.places[here] = Place(_line(item), join("", here), item.start_mark.line + 1)
            items.append(_value(document, item, here))
        return items
    return _scalar(document, node, path)


def _mapping(document: Document, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any] | str:
    if any(isinstance(key_node, yaml.MappingNode) for key_node, _ in node.value):
        document.complain(path, _OPENING_BRACES)
        return "{{ }}"  # text is what was meant, and what the later stages see
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = Place(_line(key_node), "", key_node.start_mark.line + 1)
        key = _key(document, key_node, path, place)
        if key is None:
            continue
        here = (*path, key)
        place = Place(place.origin, join("", here), place.order)
        if key in found:
            first = document.places[here].origin
            text = f"stands twice; the first is on {first}; remove one"
            # Two on one line would share a slot with any problem of the first value.
            document.problems.setdefault((here, f"{place.origin} again"), Problem(place, text))
            continue
        document.places[here] = place
        found[key] = None
        found[key] = _value(document, value_node, here)
    return found


def _key(document: Document, node: yaml.Node, path: KeyPath, place: Place) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        document.complain(path, "has a list as a key; a key is a word", place=_at(document, path, place))
        return None
    try:
        key = plain(node.value) if node.style is None else node.value
    except ValueError:
        key = None
    if isinstance(key, Trap) and key.raw.isalpha():
        key = key.raw  # on, off, yes and no are words where a key stands
    if not isinstance(key, str):
        text = f"has the key {quoted(node.value)}, which YAML does not read as text; put it in quotes"
        document.complain((*path, node.value), text, place=_at(document, path, place))
        return None
    if wrong := flaw(key):
        document.complain((*path, key), f"has a key that {wrong}", place=_at(document, path, place))
        return None
    return key


def _at(document: Document, path: KeyPath, place: Place) -> Place:
    return Place(place.origin, document.place(path).shown or "the spec", place.order)


def _scalar(document: Document, node: Any, path: KeyPath) -> Any:
    try:
        value = plain(node.value) if node.style is None else node.value
    except ValueError as error:
        document.complain(path, str(error))
        return None
    if isinstance(value, str) and (wrong := flaw(value)):
        document.complain(path, wrong)
        return "(text)"  # so that the later stages do not find it missing
    return value
