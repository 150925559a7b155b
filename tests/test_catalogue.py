"""Every id of the failure catalogue has a test: network N, status and headers H, body B, streams S."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.provider.test_fault_matrix import CASES

TESTS = Path(__file__).parent
CATALOGUE = {
    f"{letter}{n:02d}" for letter, last in (("N", 19), ("H", 16), ("B", 18), ("S", 11)) for n in range(1, last + 1)
}


def marked(tree: ast.Module) -> Iterator[str]:
    """The arguments of every ``pytest.mark.fault(...)`` that are written out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def test_no_id_of_the_catalogue_is_without_a_test() -> None:
    found = {name for path in TESTS.rglob("*.py") for name in marked(ast.parse(path.read_text(encoding="utf-8")))}
    # The matrix computes its marks from its cases.
    found |= {name for case in CASES for name in case.ids.split()}
    assert sorted(CATALOGUE - found) == []
