"""The spec as a JSON Schema, for editors: the types of ``model``, and what ``shape`` and ``hints`` add to them."""

from __future__ import annotations

from typing import Any, Final

from pipeline.spec.attach import SOURCES
from pipeline.spec.hints import CHAT_PARAMS, REFUSED_PARAMS
from pipeline.spec.model import JobSpec
from pipeline.spec.shape import MAY_BE_EMPTY, MAY_BE_EMPTY_BELOW, SWITCHES

_Schema = dict[str, Any]

_TEXT: Final = {"type": "string", "minLength": 1}
_TEXTS: Final = {"type": "array", "items": _TEXT, "minItems": 1}
_SHORT_FORMS: Final[dict[str, list[_Schema]]] = {
    "input": [_TEXT, _TEXTS],
    "prompt": [_TEXT],
    "model": [_TEXT],
    "output": [_TEXT],
    "notify": [_TEXT, _TEXTS],
    **{block: [{"type": "boolean"}] for block in SWITCHES},
}
_ANNOTATIONS: Final = frozenset({"description", "default"})


def json_schema() -> _Schema:
    """Draft 2020-12. Short forms included."""
    schema = JobSpec.model_json_schema(by_alias=True)
    blocks = schema["$defs"]
    _open_model(blocks["ModelSpec"])
    for listed in (blocks["InputSpec"]["properties"]["path"], blocks["NotifySpec"]["properties"]["command"]):
        listed |= {"anyOf": [_TEXT, _TEXTS]}
        for name in ("type", "items", "minItems"):
            del listed[name]
    for block, forms in _SHORT_FORMS.items():
        _accept(schema["properties"], block, *forms)
    for block in MAY_BE_EMPTY:
        _accept(schema["properties"], block, {"type": "null"})
    for outer, key in MAY_BE_EMPTY_BELOW:
        _accept(_properties(schema, [outer]), key, {"type": "null"})
    _shorten_attachments(blocks)
    schema["required"] = ["input", "prompt", "model"]  # the others have defaults that hang on the file's name
    del blocks["OutputSpec"]["required"]
    blocks["PromptSpec"]["anyOf"] = [{"required": ["user"]}, {"required": ["messages"]}]
    for block in (schema, *blocks.values()):
        block.pop("description", None)  # a docstring, written for who reads the code
    _drop_titles(schema)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Job spec of prompt-pipeline"}
    return head | schema


def _properties(schema: _Schema, path: list[str]) -> _Schema:
    """The properties of a block, by the path that leads to it."""
    properties: _Schema = schema["properties"]
    for key in path:
        forms = [properties[key], *properties[key].get("anyOf", [])]
        reference = next(form["$ref"] for form in forms if "$ref" in form)
        properties = schema["$defs"][reference.rpartition("/")[2]]["properties"]
    return properties


def _accept(properties: _Schema, key: str, *forms: _Schema) -> None:
    """One more form of a value, unless it is there already."""
    whole = properties[key]
    notes = {name: value for name, value in whole.items() if name in _ANNOTATIONS}
    rest = {name: value for name, value in whole.items() if name not in _ANNOTATIONS}
    known = rest.get("anyOf", [rest])
    properties[key] = notes | {"anyOf": known + [form for form in forms if form not in known]}


def _shorten_attachments(blocks: _Schema) -> None:
    """A column's name alone is an attachment, too; a block has one of three sources."""
    attachments = blocks["PromptSpec"]["properties"]["attachments"]
    whole = next(form for form in attachments["anyOf"] if form.get("type") == "array")
    whole["items"] = {"anyOf": [_TEXT, whole["items"]]}
    blocks["AttachmentSpec"]["oneOf"] = [{"required": [source]} for source in SOURCES]


def _open_model(block: _Schema) -> None:
    del block["properties"]["params"]
    words = "Goes into the request body as it stands."
    block["properties"] |= {param: {"description": words} for param in sorted(CHAT_PARAMS)}
    block["properties"] |= {
        param: {"not": {}, "description": f"Refused: it {why}."} for param, why in REFUSED_PARAMS.items()
    }
    block["additionalProperties"] = {"description": words}


def _drop_titles(node: Any) -> None:
    """Pydantic's titles repeat the names of our classes, which mean nothing to who writes a spec."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for inner in node.values():
            _drop_titles(inner)
    elif isinstance(node, list):
        for inner in node:
            _drop_titles(inner)
