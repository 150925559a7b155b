"""A row and the job's templates make a prompt.

Templates come from the spec, values from the data, and the two never mix: a value is inserted as it stands and is
never parsed again. The templates run in jinja2's immutable sandbox over plain text, numbers and truth values only. A
null in a column that a template uses makes the row invalid: it must never become the word None in a paid request.

A column whose name is no single word is written ``row["Review Text"]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import StrictUndefined, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from pipeline.errors import PipelineError, SpecError
from pipeline.records import Message, Prompt, Row, Value

_ROW = "row"
_OTHER_NAMES = '. A column whose name is no single word is written {{ row["its name"] }}'
_WORDS = (str, int, float, list, tuple, dict, jinja2.Undefined)  # an undefined one raises by itself


class InvalidRow(PipelineError):
    """This row cannot become a prompt; it is not sent and not paid for."""


class _Environment(ImmutableSandboxedEnvironment):
    """No globals: a template sees its row and nothing else."""

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=_as_words)
        self.globals.clear()


def _as_words(value: Any) -> Any:
    """``{{ title.title }}`` is a method of text, ``{{ none }}`` is nothing: neither is anything to ask about."""
    if value is None or not isinstance(value, _WORDS):
        raise TypeError(f"{{{{ ... }}}} gives {type(value).__name__}, which is no text; a filter or () may be missing")
    return value


class Templates:
    """The messages of a job, compiled once. Raises SpecError for a template that cannot be parsed."""

    def __init__(self, messages: Sequence[tuple[str, str]]) -> None:
        environment = _Environment()
        self._messages = [
            (role, _compile(environment, f"prompt.messages[{place}] ({role})", content))
            for place, (role, content) in enumerate(messages)
        ]
        used: dict[str, None] = {}
        for _, (_, names, _) in self._messages:
            used.update(dict.fromkeys(names))
        self.columns = tuple(used)
        """The columns that the templates use, in order of first use."""

    def render(self, row: Row) -> Prompt:
        """Raises InvalidRow, which says why."""
        fields = row.fields
        for name in self.columns:
            if fields.get(name) is None:
                raise InvalidRow(f"column {name!r} is null")
        messages: list[Message] = []
        blank = True
        for role, (template, _, spelled) in self._messages:
            if type(template) is _Inserts:
                text = template.render(fields)
            else:
                named = {word: fields[name] for word, name in spelled.items()}
                text = _render(template, {**fields, **named} if named else fields)
            if role != "system" and blank and text.strip():
                blank = False
            messages.append({"role": role, "content": text})
        if blank:
            raise InvalidRow("the prompt is blank")
        return Prompt(messages)


class _Inserts:
    """A template of nothing but text and ``{{ column }}``: joined directly, at a tenth of the machinery's cost."""

    def __init__(self, pieces: Sequence[tuple[str, bool]]) -> None:
        self._pieces = tuple(pieces)  # text, and whether it is a column's name

    def render(self, fields: Mapping[str, Value]) -> str:
        return "".join([str(fields[piece]) if is_name else piece for piece, is_name in self._pieces])

    @classmethod
    def of(cls, tree: nodes.Template, spelled: Mapping[str, str]) -> _Inserts | None:
        """None when the template does anything else."""
        pieces: list[tuple[str, bool]] = []
        for output in tree.body:
            if not isinstance(output, nodes.Output):
                return None
            for node in output.nodes:
                if isinstance(node, nodes.TemplateData):
                    pieces.append((node.data, False))
                elif isinstance(node, nodes.Name) and node.name != "self":  # jinja2's own, and no column
                    pieces.append((spelled.get(node.name, node.name), True))
                else:
                    return None
        return cls(pieces)


class _Spelled(NodeTransformer):
    """``row["Review Text"]`` made into a word of its own that stands for the column."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._words: dict[str, str] = {}

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        name = node.arg.value if isinstance(node.arg, nodes.Const) else None
        if not (isinstance(node.node, nodes.Name) and node.node.name == _ROW and isinstance(name, str)):
            return self.generic_visit(node)
        word = self._words.setdefault(name, f"_column_{len(self._words)}_of_{_ROW}")
        self.names[word] = name
        return nodes.Name(word, "load", lineno=node.lineno)


def _spell(tree: nodes.Template) -> dict[str, str]:
    """The words that now stand for columns, and their names. A template that makes a ``row`` itself means that one."""
    if any(node.name == _ROW and node.ctx != "load" for node in tree.find_all(nodes.Name)):
        return {}
    spelled = _Spelled()
    spelled.visit(tree)
    return spelled.names


_Compiled = tuple[jinja2.Template | _Inserts, tuple[str, ...], Mapping[str, str]]


def _compile(environment: _Environment, where: str, content: str) -> _Compiled:
    try:
        tree = environment.parse(content)
        spelled = _spell(tree)
        names = tuple(dict.fromkeys(spelled.get(word, word) for word in _names_in_order(tree)))
        _refuse_imports(tree, where)
        template = _Inserts.of(tree, spelled)
        if template is not None:
            return template, names, {}
        return environment.from_string(tree), names, spelled
    except jinja2.TemplateSyntaxError as exc:
        cure = _OTHER_NAMES if "expected token" in (exc.message or "") else ""
        raise SpecError(f"{where}: line {exc.lineno} of the template: {exc.message}{cure}") from exc
    except (SyntaxError, RecursionError) as exc:  # what jinja2 made of it is no Python
        raise SpecError(f"{where}: the template is nested too deeply; write it more simply") from exc


def _names_in_order(tree: nodes.Template) -> list[str]:
    free = meta.find_undeclared_variables(tree)
    order: dict[str, None] = {}
    for node in tree.find_all(nodes.Name):
        if node.name in free:
            order.setdefault(node.name)
    return list(order)


def _refuse_imports(tree: nodes.Template, where: str) -> None:
    if next(iter(meta.find_referenced_templates(tree)), "") != "":
        raise SpecError(f"{where}: a template cannot include, import or extend another; write it out in the spec")


def _render(template: jinja2.Template | _Inserts, fields: Mapping[str, Value]) -> str:
    try:
        return template.render(fields)
    except jinja2.TemplateError as exc:
        raise InvalidRow(f"the template fails on this row: {_short(exc)}") from exc
    except RecursionError as exc:
        raise InvalidRow("the template fails on this row: a macro that calls itself comes to no end") from exc
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, OverflowError, MemoryError) as exc:
        raise InvalidRow(f"the template fails on this row: {type(exc).__name__}: {_short(exc)}") from exc


def _short(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]


def fields_as_json(fields: Mapping[str, Value]) -> dict[str, Any]:
    """What names an invalid row: its used values, so that an edit makes it a new question."""
    return {name: _as_json(fields[name]) for name in sorted(fields)}


def _as_json(value: Value) -> Value:
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value
