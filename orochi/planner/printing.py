"""Trees to text with little ado: pglast's own printers, their preparation done in one plain loop.

Printers look at what stands around a node, so every node is told its ancestors first, in the order in
which pglast tells them: a node that stands in two places keeps the later one.
"""

from __future__ import annotations

import collections
import threading

from pglast import stream, visitors

from orochi.planner import tree
from orochi.planner.tree import ast

#: Trees of texts that came before are shared by all who plan, in whatever thread.
_telling = threading.Lock()


class _Printer(stream.RawStream):
    def text(self, node: tree.Node) -> str:
        with _telling:
            return self._text(node)

    def _text(self, node: tree.Node) -> str:
        told = _tell_ancestors((node,))
        try:
            self.print_node(node)
            return str(self.getvalue())
        finally:
            # a tree that is kept would keep all trees that it was ever a part of
            for item in told.values():
                del item.ancestors


def text(node: tree.Node) -> str:
    """The SQL of a statement or an expression; the caller checks that it means the same."""
    return _Printer().text(node)


def _tell_ancestors(root: tuple[tree.Node, ...]) -> dict[int, tree.Node]:
    """Tell every node of a tree; those told, by id."""
    told: dict[int, tree.Node] = {}
    ancestor, plain = visitors.Ancestor, (tuple, ast.Node)
    todo = collections.deque([(ancestor(), root)])
    while todo:
        above, found = todo.popleft()
        items = enumerate(found) if isinstance(found, tuple) else ((-1, found),)
        for index, item in items:
            own = above if index < 0 else ancestor(above, found, index)
            if isinstance(item, ast.Node):
                item.ancestors = own
                told[id(item)] = item
                for member in item:
                    value = getattr(item, member)
                    if isinstance(value, plain):
                        todo.append((ancestor(own, item, member), value))
            elif isinstance(item, tuple):
                for number, value in enumerate(item):
                    if isinstance(value, plain):
                        todo.append((ancestor(own, item, number), value))
    return told
