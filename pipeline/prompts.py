"""A row and the job's templates make a prompt.

Templates come from the spec, values from the data, and the two never mix: a value is inserted as it stands and is
never parsed again. The templates run in jinja2's immutable sandbox over plain text, numbers and truth values only. A
null in a column that a template uses makes the row invalid: it must never become the word None in a paid request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import StrictUndefined, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import PipelineError, SpecError
from pipeline.records import Message, Prompt, Row, Value


class InvalidRow(PipelineError):
    """This row cannot become a prompt; it is not sent and not paid for."""


class _Environment(ImmutableSandboxedEnvironment):
    """No globals: a template sees its row and nothing else."""

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
        self.globals.clear()


class Templates:
    """The messages of a job, compiled once. Raises SpecError for a template that cannot be parsed."""

    def __init__(self, messages: Sequence[tuple[str, str]]) -> None:
        environment = _Environment()
        self._messages = [
            (role, _compile(environment, f"prompt.messages[{place}] ({role})", content))
            for place, (role, content) in enumerate(messages)
        ]
        used: dict[str, None] = {}
        for _, (_, names) in self._messages:
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
        for role, (template, _) in self._messages:
            text = template if isinstance(template, str) else _render(template, fields)
            if role != "system" and blank and text.strip():
                blank = False
            messages.append({"role": role, "content": text})
        if blank:
            raise InvalidRow("the prompt is blank")
        return Prompt(messages)


_Compiled = tuple[jinja2.Template | str, tuple[str, ...]]


def _compile(environment: _Environment, where: str, content: str) -> _Compiled:
    try:
        tree = environment.parse(content)
        names = tuple(_names_in_order(tree))
        _refuse_imports(tree, where)
        if not names and "{" not in content:
            return content, ()
        return environment.from_string(content), names
    except jinja2.TemplateSyntaxError as exc:
        raise SpecError(f"{where}: line {exc.lineno} of the template: {exc.message}") from exc


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


def _render(template: jinja2.Template, fields: Mapping[str, Value]) -> str:
    try:
        return template.render(fields)
    except jinja2.TemplateError as exc:
        raise InvalidRow(f"the template fails on this row: {_short(exc)}") from exc
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, OverflowError, MemoryError) as exc:
        raise InvalidRow(f"the template fails on this row: {type(exc).__name__}: {_short(exc)}") from exc


def _short(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]


def fields_as_json(fields: Mapping[str, Value]) -> dict[str, Any]:
    """What names an invalid row: its used values, so that an edit makes it a new question."""
    return {name: fields[name] for name in sorted(fields)}
