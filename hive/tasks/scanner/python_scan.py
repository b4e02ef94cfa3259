"""Security problems in a Python file, by bandit.

bandit looks at every string of a file once for each of its rules, and each time at every line of
what is around the string, for a `# nosec`. In a table of thousands of lines that is a square of
them, so what is long is folded before it is looked at: groups of elements instead of one long row.
"""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from hive.tasks.findings import Finding, Level, Skipped
from hive.tasks.scanner.cpu_limit import Overtime, cpu_limit

_Node = TypeVar("_Node", bound=ast.expr)

_GROUP = 25
_LONGEST_STRING = 4_000
# The texts of these rules quote the password that they found.
_QUOTING_RULES = frozenset({"B105", "B106", "B107"})
_QUOTED = re.compile(r"'.*'", re.DOTALL)


def scan_python(file: Path, seconds: float) -> tuple[list[Finding], list[Skipped]]:
    """What bandit finds in a file with at most so many seconds of CPU, and why it read no more."""
    # A manager collects for ever, and costs nothing to make: a fresh one for each file.
    manager = _bandit()()
    manager.discover_files([str(file)])
    try:
        with cpu_limit(seconds), warnings.catch_warnings():
            # Parsing repeats the compiler's warnings about the scanned code.
            warnings.simplefilter("ignore")
            manager.run_tests()
    except Overtime:
        manager.troubles.append("not fully scanned: it takes too long")
    reasons = manager.troubles or [reason for _, reason in manager.get_skipped()]
    return (
        [_finding(issue, file) for issue in manager.get_issue_list()],
        [Skipped(path=str(file), reason=f"bandit: {why}", unread=True) for why in reasons[:1]],
    )


def _finding(issue: Any, file: Path) -> Finding:
    text = _QUOTED.sub("'…'", issue.text) if issue.test_id in _QUOTING_RULES else issue.text
    return Finding(
        tool="bandit",
        rule=issue.test_id,
        severity=_level(issue.severity),
        confidence=_level(issue.confidence),
        path=str(file),
        line=issue.lineno,
        text=" ".join(text.split()),
    )


def _level(value: str) -> Level:
    """Bandit's levels; what it calls UNDEFINED is LOW here."""
    return "HIGH" if value == "HIGH" else "MEDIUM" if value == "MEDIUM" else "LOW"


@lru_cache
def _bandit() -> Callable[[], Any]:
    """What makes bandit's managers; the first call imports bandit and its plugins."""
    from stevedore import _cache

    with suppress(AttributeError):
        # stevedore, which finds the plugins, would keep a cache of them in the home directory of
        # the node's user.
        _cache._c._disable_caching = True
    from bandit.core.config import BanditConfig
    from bandit.core.manager import BanditManager
    from bandit.core.node_visitor import BanditNodeVisitor

    # What goes wrong in it is told by `troubles`.
    logging.getLogger("bandit").setLevel(logging.CRITICAL)
    config = BanditConfig()

    class Manager(BanditManager):  # type: ignore[misc]
        """Keeps what was found before a scan stopped, and says why it stopped."""

        def __init__(self) -> None:
            super().__init__(config, "file")
            self.troubles: list[str] = []

        def _execute_ast_visitor(
            self, fname: str, fdata: Any, data: bytes, nosec_lines: dict[int, Any]
        ) -> Any:
            visitor = BanditNodeVisitor(
                fname, fdata, self.b_ma, self.b_ts, self.debug, nosec_lines, self.metrics
            )
            visitor.tester.report_error = self._rule_failed
            try:
                return visitor.process(_folded(ast.parse(data)))
            except (RecursionError, MemoryError):
                self.troubles.append("nested too deeply to be parsed")
                raise
            finally:
                self.results.extend(visitor.tester.results)

        def _rule_failed(self, rule: str, context: Any, error: Exception) -> None:
            self.troubles.append(
                f"its rule {rule} failed at line {context._context.get('lineno', 0)}: {error!r}"
            )

    return Manager


def _folded(tree: ast.Module) -> ast.Module:
    """The tree with long rows in groups and long strings cut; the lines stay what they are."""
    for node in ast.walk(tree):
        match node:
            case ast.Dict(values=values) if len(values) > _GROUP:
                # {**{…}, **{…}} is the same dictionary.
                groups: list[ast.expr] = [
                    _at(ast.Dict(keys, part), part)
                    for keys, part in zip(_grouped(node.keys), _grouped(values), strict=True)
                ]
                node.keys, node.values = [None] * len(groups), groups
            case ast.List(elts=row) | ast.Tuple(elts=row) | ast.Set(elts=row) if len(row) > _GROUP:
                # No rule looks at the numbers of a row.
                node.elts = [_unpacked(part) for part in _grouped([*filter(_is_text, row)])]
            case ast.Call(args=row) if len(row) > _GROUP:
                # Rules look at the first arguments.
                node.args = row[:_GROUP] + [_unpacked(part) for part in _grouped(row[_GROUP:])]
                node.end_lineno = row[_GROUP - 1].end_lineno
            case ast.BoolOp(values=row) if len(row) > _GROUP:
                node.values = [_at(ast.BoolOp(node.op, part), part) for part in _grouped(row)]
            case ast.JoinedStr(values=row) if len(row) > 2 * _GROUP:
                node.values = [_at(ast.JoinedStr(part), part) for part in _grouped(row)]
            case ast.BinOp(left=ast.BinOp() as left):
                left._terms = getattr(node, "_terms", 0) + 1  # type: ignore[attr-defined]
                if left._terms % _GROUP == 0:  # type: ignore[attr-defined]
                    node.left = _unpacked([left])
            case ast.Constant(value=str() | bytes() as value) if len(value) > _LONGEST_STRING:
                node.value = value[:_LONGEST_STRING]
    return tree


def _is_text(node: ast.expr) -> bool:
    return not isinstance(node, ast.Constant) or isinstance(node.value, str | bytes)


def _grouped(row: list[Any]) -> Iterator[list[Any]]:
    return (row[start : start + _GROUP] for start in range(0, len(row), _GROUP))


def _unpacked(row: list[ast.expr]) -> ast.expr:
    """A row as it stands in another one: `*[…]`."""
    return _at(ast.Starred(_at(ast.List(row, ast.Load()), row), ast.Load()), row)


def _at(node: _Node, row: list[ast.expr]) -> _Node:
    """The node, placed where its row is."""
    node.lineno, node.col_offset = row[0].lineno, row[0].col_offset
    node.end_lineno, node.end_col_offset = row[-1].end_lineno, row[-1].end_col_offset
    return node
