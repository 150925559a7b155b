"""The house's plan, held by its own imports: down only, through the doors, each package where it is named."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "pipeline"

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"records", "collector"}),
    frozenset({"errors", "ledger", "loop"}),
    # Strangers to each other: each knows records and errors alone.
    frozenset({"prompts", "answers", "pool", "feed", "progress", "watch", "noticed", "stop", "runlog", "evaluate"})
    | frozenset({"drift", "screen", "environment", "notify", "share", "descriptors"})
    | frozenset({"spec", "simulator", "attachments", "media"}),
    frozenset({"storage", "provider"}),
    frozenset({"summary", "job", "linked", "sharing", "work"}),
    frozenset({"stand"}),
    frozenset({"plan", "comparison", "wired"}),
    frozenset({"onerun", "asking", "face"}),
    frozenset({"before"}),
    frozenset({"after", "sending"}),
    frozenset({"crew"}),
    frozenset({"run"}),
    frozenset({"look", "status", "halt", "inform"}),
    frozenset({"tell", "checks", "report"}),
    frozenset({"cli"}),
    frozenset({"__main__", "demo"}),
)
"""From the ground up. A room may import from lower floors only; ``pipeline`` itself (the version) is the ground."""

DOORS = {
    "storage": {"source", "checkpoint", "output", "published", "snapshot", "verify", "history", "labels"}
    | {"attachments", "keys", "lock", "holder", "layout", "files", "shelf", "leases", "lane", "job_file", "export"}
    | {"named", "ranged", "standing"},
    "provider": {"ask", "wire", "purses", "budget", "fetch", "till"},
    "crew": {"captain", "size"},
    "spec": {"", "age", "endpoint", "load", "starter"},
    "simulator": {"", "background"},
    "answers": {""},
    "attachments": {""},
    "media": {""},
    "report": {""},
    "cli": {""},
}
"""The rooms of a block that the rest of the house may enter; "" is the block's own front door."""

PACKAGES = {
    "aiohttp": {
        "provider.client",
        "provider.roundtrip",
        "provider.dial",
        "provider.fetch",
        "provider.faults",
        "provider._verdicts",
        "provider._said",
        "simulator",
    },
    "click": {"cli", "demo"},
    "jinja2": {"prompts", "report.page"},
    "polars": {"storage", "stand", "plan", "before", "look", "report.gather"},
    "pydantic": {"spec"},
    "pydantic_core": {"spec"},
    "tenacity": {"provider.retry"},
    "tqdm": {"progress"},
    "uvloop": {"loop", "simulator"},
    "yaml": {"spec"},
    "jsonschema": {"answers"},
    "markupsafe": {"report.page"},
    "matplotlib": {"report.charts"},
    "multidict": {"provider", "simulator"},
    "yarl": {"provider"},
}
"""Third-party packages, and the only rooms that know them. orjson, the house's JSON, may be anywhere."""


@dataclass(frozen=True)
class Import:
    room: str  # "storage.journal", "" for the package itself
    target: str  # "pipeline.records", "polars"
    inside_function: bool
    line: int


def _rooms() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def _imports() -> list[Import]:
    return [found for room, tree in _rooms() for found in _imports_of(room, tree, inside=False)]


def _imports_of(room: str, node: ast.AST, *, inside: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{room}: relative import in line {child.lineno}"
            for target in _targets(child):
                yield Import(room, target, inside, child.lineno)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(room, alias.name, inside, child.lineno)
        deeper = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _imports_of(room, child, inside=deeper)


def _targets(node: ast.ImportFrom) -> list[str]:
    """``from pipeline.storage import manifest`` imports a room, not a name."""
    module = node.module or ""
    folder = ROOT / Path(*module.split("."))
    if module.startswith("pipeline") and folder.is_dir():
        rooms = [f"{module}.{alias.name}" for alias in node.names if (folder / f"{alias.name}.py").is_file()]
        if rooms:
            return rooms
    return [module]


def _block(room: str) -> str:
    return room.split(".")[0]


def _own(imports: list[Import]) -> Iterator[tuple[Import, str]]:
    for found in imports:
        if found.target.startswith("pipeline."):
            yield found, found.target.removeprefix("pipeline.")


IMPORTS = _imports()


def _floor(room: str) -> int:
    for number, floor in enumerate(FLOORS):
        if _block(room) in floor:
            return number
    raise AssertionError(f"{room} stands on no floor: give it one in FLOORS")


def test_every_room_stands_on_a_floor() -> None:
    for room, _ in _rooms():
        if room:
            _floor(room)


def test_imports_go_down_only() -> None:
    wrong = [
        f"{found.room}:{found.line} imports {target}"
        for found, target in _own(IMPORTS)
        if found.room and _block(found.room) != _block(target) and _floor(target) >= _floor(found.room)
    ]
    assert not wrong


def test_blocks_are_entered_by_their_doors() -> None:
    wrong = []
    for found, target in _own(IMPORTS):
        block, _, room = target.partition(".")
        if block in DOORS and _block(found.room) != block and room not in DOORS[block]:
            wrong.append(f"{found.room}:{found.line} enters {target}")
    assert not wrong


def test_no_circles_inside_a_block() -> None:
    below: dict[str, set[str]] = {}
    for found, target in _own(IMPORTS):
        if _block(found.room) == _block(target) and target != found.room:
            below.setdefault(found.room, set()).add(target)
    done: set[str] = set()

    def walk(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, f"a circle: {' > '.join((*path, room))}"
        if room not in done:
            for target in below.get(room, ()):
                walk(target, (*path, room))
            done.add(room)

    for room in below:
        walk(room, ())


def test_the_simulator_knows_nothing_of_the_house_but_records_and_errors() -> None:
    known = {target for found, target in _own(IMPORTS) if _block(found.room) == "simulator"}
    assert {target for target in known if _block(target) != "simulator"} <= {"records", "errors"}


def test_endpoint_kinds_do_no_input_or_output() -> None:
    kinds = [found for found in IMPORTS if found.room.startswith("provider.endpoints.")]
    assert kinds
    allowed = {"__future__", "collections.abc", "dataclasses", "functools", "math", "re", "typing", "orjson"}
    allowed |= {"binascii"}  # base64, which is no I/O
    wrong = [
        f"{found.room}:{found.line} imports {found.target}"
        for found in kinds
        if not found.target.startswith("pipeline.") and found.target not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_third_party_package_is_known_where_it_is_named(package: str) -> None:
    rooms = PACKAGES[package]
    wrong = [
        f"{found.room}:{found.line}"
        for found in IMPORTS
        if found.target.split(".")[0] == package and found.room not in rooms and _block(found.room) not in rooms
    ]
    assert not wrong


def test_nothing_is_imported_inside_a_function_but_by_the_verbs() -> None:
    hidden = [found for found in IMPORTS if found.inside_function]
    assert not [f"{found.room}:{found.line}" for found in hidden if _block(found.room) != "cli"]


def test_the_command_line_loads_nothing_but_click() -> None:
    """So that ``--help`` is instant, and the second of two runs leaves at once."""
    told = "import sys, pipeline.cli; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    foreign = set(loaded.stdout.split()) & {package.split(".")[0] for package in [*PACKAGES, "orjson", "asyncio"]}
    assert foreign == {"click"}


def test_the_top_of_the_repository_holds_what_was_agreed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: there is no list of files to hold against the plan")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    agreed = {"pyproject.toml", "README.md", "Makefile", "pipeline", "jobs", "tests", "data"}
    assert {name for name in top if not name.startswith(".")} <= agreed


def test_files_that_are_no_modules_go_into_the_distribution() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {(ROOT / room.replace(".", "/") / name) for room, names in named.items() for name in names}
    assert packed == {
        path for path in HOUSE.rglob("*") if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
