"""From a file to a ``JobSpec``, or to one ``SpecError`` that lists all that is wrong with it, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import SpecError
from pipeline.spec.age import NO_AGE
from pipeline.spec.document import Document, KeyPath, Place, Trap, quoted, shown
from pipeline.spec.hints import block_at, keys_of, likely, param_problem, unknown_key
from pipeline.spec.model import USER_MISSING, JobSpec
from pipeline.spec.read import read
from pipeline.spec.secrets import REFUSED, looks_like_key, names_a_key, refusal
from pipeline.spec.shape import drop_empty_blocks, expand, override

_MOST_BYTES: Final = 1 << 20

_MISSING: Final[dict[KeyPath, str]] = {
    ("input",): "is missing; say where the rows are, such as input: data/reviews.csv",
    ("input", "path"): "is missing; say where the rows are, such as path: data/reviews.csv",
    ("prompt",): 'is missing; say what to ask, such as prompt: "Is this positive? {{ text }}"',
    ("prompt", "user"): 'is missing; say what to ask, such as user: "Is this positive? {{ text }}"',
    ("model",): "is missing; say who is asked, such as model: gemini-2.5-flash",
    ("model", "name"): "is missing; say who is asked, such as name: gemini-2.5-flash",
}


def load(path: str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """``overrides`` are strings such as ``limits.concurrency=8``. Raises ``SpecError`` only."""
    name = str(path) if str(path).isprintable() else quoted(str(path))
    document = read(_text(Path(path), name))
    spec = None
    if not document.problems or document.tree is not None:
        spec = _judge(document, Path(path).stem, overrides)
    if document.problems or spec is None:
        raise SpecError("\n".join(f"{name}: {line}" for line in document.told()))
    return spec


def _text(path: Path, name: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(f"{name}: there is no such file{_neighbours(path)}") from None
    except IsADirectoryError:
        raise SpecError(f"{name}: is a folder; name the job spec in it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file can have this name"
        raise SpecError(f"{name}: cannot be read: {reason}") from None
    if len(data) > _MOST_BYTES:
        raise SpecError(f"{name}: is larger than 1 MB, so it is hardly a job spec; is it the input table?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{name}: line {line}: is not UTF-8 text; save the file as UTF-8") from None


def _neighbours(path: Path) -> str:
    try:
        names = sorted(other.name for other in path.parent.iterdir() if other.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    if near := get_close_matches(path.name, names, 1, 0.6):
        return f"; did you mean {path.parent / near[0]}?"
    return f"; {path.parent} has {', '.join(names[:5])}" if names else ""


def _judge(document: Document, stem: str, overrides: Sequence[str]) -> JobSpec | None:
    if document.tree is None:
        document.complain(
            (), 'is empty; "pipeline init" writes one to start from', place=Place("line 1", "the spec", 1)
        )
        return None
    if not isinstance(document.tree, dict):
        text = f"must be keys and values such as input: data/reviews.csv, not {shown(document.tree)}"
        document.complain((), text, place=Place("line 1", "the spec", 1))
        return None
    expand(document)
    override(document, overrides)
    expand(document)
    drop_empty_blocks(document)
    _refuse_keys(document)
    _need_a_root(document)
    _part_params(document)
    _set_defaults(document, stem)
    try:
        return JobSpec.model_validate(document.tree)
    except ValidationError as error:
        _translate(document, error.errors(include_url=False))
    finally:
        _tell_traps(document)
    return None


def _refuse_keys(document: Document) -> None:
    for path, value in _leaves(document.tree, ()):
        if any(looks_like_key(key, prose=True) for key in path if isinstance(key, str)):
            document.complain(path, f"stands under a name that looks like an API key; {REFUSED}")
        if not isinstance(value, str) or path[:2] in (("endpoint", "api_key_env"), ("endpoint", "headers")):
            continue  # these two have words of their own
        prose = path[0] == "prompt" and not _is_address(path, value)
        name = next((key for key in reversed(path) if isinstance(key, str)), "")
        if problem := refusal(value, prose=prose):
            document.complain(path, problem)
        elif not prose and names_a_key(name, value):
            document.complain(path, f"holds what looks like a key; {REFUSED}")


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index))
    else:
        yield path, value


def _is_address(path: KeyPath, value: str) -> bool:
    """Of an attachment. The content in a data: address is as random as prose may be."""
    return path[:2] == ("prompt", "attachments") and path[-1] == "url" and value[:5].lower() != "data:"


def _need_a_root(document: Document) -> None:
    prompt, block = document.tree.get("prompt"), document.tree.get("attachments")
    attachments = prompt.get("attachments") if isinstance(prompt, dict) else None
    if not isinstance(attachments, list) or (isinstance(block, dict) and block.get("root") is not None):
        return
    for index, one in enumerate(attachments):
        if isinstance(one, dict) and isinstance(one.get("file"), str):
            text = "is a local file, which needs attachments.root: the folder that files are taken from"
            document.complain(("prompt", "attachments", index, "file"), text)


def _part_params(document: Document) -> None:
    model = document.tree.get("model")
    if not isinstance(model, dict):
        return
    params = {key: value for key, value in model.items() if key != "name"}
    for key in params:
        if problem := param_problem(key):
            document.complain(("model", key), problem)
    document.tree["model"] = {"params": params} | ({"name": model["name"]} if "name" in model else {})


def _set_defaults(document: Document, stem: str) -> None:
    tree = document.tree
    if "name" not in tree:
        tree["name"] = stem
        document.places[("name",)] = Place("line 1", f"name (here the file's own, {quoted(stem)})", 1)
    output = tree.setdefault("output", {})
    if isinstance(output, dict):
        output.setdefault("path", f"data/out/{tree['name']}")


def _tell_traps(document: Document) -> None:
    """Those that no type has refused yet: in ``model``'s free keys, or where a number or true is expected."""
    for path, value in _leaves(document.tree, ()):
        if isinstance(value, Trap):
            path = ("model", *path[2:]) if path[:2] == ("model", "params") else path
            plainly = f", or write {value.instead} if not" if value.instead else ""
            text = f"is written {value.raw}, which YAML reads as {value.reading}"
            document.complain(path, f'{text}; put it in quotes ("{value.raw}") if it is text{plainly}')


def _translate(document: Document, errors: list[ErrorDetails]) -> None:
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    meant = {(*path[:-1], likely(path)) for path in unknown}
    for error in errors:
        path, kind = error["loc"], error["type"]
        if kind == USER_MISSING:
            path, kind = (*path[:-1], "user"), "missing"
        if kind == "missing" and path in meant:
            continue  # it is there, misspelt
        if isinstance(error["input"], Trap) and kind != "string_type":
            continue
        document.complain(path, _words(path, kind, error))


def _words(path: KeyPath, kind: str, error: ErrorDetails) -> str:
    value, limits = error["input"], error.get("ctx", {})
    if value is None and path in _MISSING:
        kind = "missing"
    # A string in this block may be a key in the wrong line.
    seen = "this" if path[:1] == ("endpoint",) and isinstance(value, str) else shown(value)
    match kind:
        case "extra_forbidden":
            return unknown_key(path)
        case "missing":
            return _MISSING.get(path, "is missing")
        case "value_error":
            return str(limits["error"])
        case "string_too_short":
            return "is empty; write a text, or remove the key"
        case "too_short":
            return "is an empty list; name at least one"
        case "string_type":
            return _not_text(value, seen)
        case "bool_type":
            return f"must be true or false, not {seen}"
        case "int_type" | "int_from_float":
            return f"must be a whole number, not {seen}{_unquoted(value)}"
        case "float_type":
            return f"must be a number, not {seen}{_unquoted(value)}"
        case "greater_than":
            return f"must be greater than {limits['gt']:g}, not {seen}"
        case "greater_than_equal":
            return f"must be at least {limits['ge']:g}, not {seen}"
        case "less_than_equal":
            return f"must be at most {limits['le']:g}, not {seen}"
        case age if age == NO_AGE:
            return f"must be a whole number above 0 and m, h, d or w, such as 30d, not {seen}"
        case "literal_error":
            return f"must be {str(limits['expected']).replace(chr(39), '')}, not {seen}"
        case "tuple_type":
            return f"must be a list, not {seen}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"must be a block of keys{_keys_in(path)}, not {seen}"
        case _:
            return f"cannot be {seen}; see pipeline schema for what may stand here"


def _not_text(value: object, seen: str) -> str:
    if isinstance(value, Trap):
        return (
            f'must be text, not {value.reading}, which is how YAML reads {value.raw}; put it in quotes: "{value.raw}"'
        )
    if isinstance(value, bool | int | float):
        return f'must be text, not {seen}; put it in quotes: "{seen}"'
    return f"must be text, not {seen}; write a text{', in quotes if it begins with a bracket' if value else ''}"


def _unquoted(value: object) -> str:
    return "; write it without quotes" if isinstance(value, str) and value.strip().replace(".", "", 1).isdigit() else ""


def _keys_in(path: KeyPath) -> str:
    block = block_at(path)
    return f" ({', '.join(keys_of(block))})" if block is not None else ""
