"""Changing a statement in its own text: tokens are replaced where the tree says they are.

Everything that is not replaced stays as the user wrote it, so nothing can be lost in printing.
"""

from __future__ import annotations

import bisect

from pglast import parser

from orochi.planner import parse, tree
from orochi.planner.tree import ast

_SCROLL, _NO_SCROLL = 2, 4  # CURSOR_OPT_*
_OPEN, _CLOSE, _DOT = "ASCII_40", "ASCII_41", "ASCII_46"


class Editor:
    """Replacements in one statement's text, applied together."""

    def __init__(self, statement: parse.Statement) -> None:
        self.sql = statement.sql
        self._tokens = [
            token for token in parser.scan(statement.sql) if token.name not in ("SQL_COMMENT", "C_COMMENT")
        ]
        self._starts = [token.start for token in self._tokens]
        self._changes: dict[tuple[int, int], str] = {}

    def replace(self, span: tuple[int, int], text: str) -> None:
        """Put `text` in the place of the characters from span[0] up to span[1]."""
        self._changes[span] = text

    def result(self) -> str:
        """The changed text."""
        pieces, at = [], 0
        for (start, end), text in sorted(self._changes.items()):
            if start < at:
                continue  # inside what was replaced already
            pieces += [self.sql[at:start], text]
            at = end
        return "".join([*pieces, self.sql[at:]])

    def relation_span(self, node: tree.Node) -> tuple[int, int]:
        """The span of a relation's name, with ONLY before it and `*` after it."""
        return self._relation(node)[:2]

    def parentheses(self) -> list[tuple[int, int]]:
        """The spans of all parenthesised texts, parentheses included."""
        opening = [index for index, token in enumerate(self._tokens) if token.name == _OPEN]
        return [(self._tokens[index].start, self._tokens[self.closing(index)].end + 1) for index in opening]

    def relation(self, node: tree.Node, text: str, *, keep_alias: bool = True) -> None:
        """Replace a relation's name; ONLY before it and `*` after it go, its alias stays.

        `TABLE name` becomes a SELECT, where the text may be more than a name.
        """
        start, end, last = self._relation(node)
        before = bisect.bisect_left(self._starts, start) - 1
        if before >= 0 and self._tokens[before].name == "TABLE":
            start, text = self._tokens[before].start, f"SELECT * FROM {text}"
        if not keep_alias:
            end = self._alias_end(last, node, end)
        self.replace((start, end), text)

    def _relation(self, node: tree.Node) -> tuple[int, int, int]:
        """Where a relation's name starts and ends, and the index of its last token."""
        first = self._index(node.location)
        parts = sum(part is not None for part in (node.catalogname, node.schemaname)) + 1
        last = self._name_end(first, parts)
        start, end = self._tokens[first].start, self._tokens[last].end + 1
        if not node.inh:
            before = first - 1
            if self._tokens[before].name == _OPEN:
                before -= 1
                last += 1
                end = self._tokens[last].end + 1
            start = self._tokens[before].start
        elif last + 1 < len(self._tokens) and self._tokens[last + 1].name == "ASCII_42":
            end = self._tokens[last + 1].end + 1
        return start, end, last

    def column(self, node: tree.Node, text: str) -> None:
        """Replace a column reference."""
        first = self._index(node.location)
        last = self._name_end(first, len(node.fields))
        self.replace((self._tokens[first].start, self._tokens[last].end + 1), text)

    def function_name(self, node: tree.Node, text: str) -> None:
        """Replace the name in a function call.

        Raises:
            CannotDeparse: the call is not written as a name and arguments.
        """
        first, last = self._call_name(node)
        self.replace((self._tokens[first].start, self._tokens[last].end + 1), text)

    def call(self, node: tree.Node, text: str) -> None:
        """Replace a whole function call, or a word such as CURRENT_TIMESTAMP with its precision."""
        if isinstance(node, ast.SQLValueFunction):
            last = first = self._index(node.location)
            if last + 1 < len(self._tokens) and self._tokens[last + 1].name == _OPEN:
                last = self.closing(last + 1)
        else:
            first, name_end = self._call_name(node)
            last = self.closing(name_end + 1)
        self.replace((self._tokens[first].start, self._tokens[last].end + 1), text)

    def token(self, location: int, text: str) -> None:
        """Replace the one token at `location`."""
        found = self._tokens[self._index(location)]
        self.replace((found.start, found.end + 1), text)

    def tokens(self, location: int, count: int, text: str) -> None:
        """Replace so many tokens from `location` on."""
        first = self._index(location)
        self.replace((self._tokens[first].start, self._tokens[first + count - 1].end + 1), text)

    def group_by(self, relation: tree.Node, text: str) -> None:
        """Put more items in front of those of the GROUP BY after a relation in FROM, on the same query level.

        Raises:
            CannotDeparse: there is none.
        """
        depth = lowest = 0
        for index in range(self._index(relation.location), len(self._tokens) - 1):
            name = self._tokens[index].name
            depth += (name == _OPEN) - (name == _CLOSE)
            lowest = min(lowest, depth)
            if name == "GROUP_P" and self._tokens[index + 1].name == "BY" and depth == lowest:
                last = index + 2 if self._tokens[index + 2].name in ("DISTINCT", "ALL") else index + 1
                end = self._tokens[last].end + 1
                self.replace((end, end), f" {text},")
                return
        raise parse.CannotDeparse("no GROUP BY")

    def parenthesised(self, location: int) -> tuple[int, int]:
        """The span of the first parenthesised text at or after `location`, parentheses included."""
        index = self._index(location)
        while self._tokens[index].name != _OPEN:
            index += 1
        return self._tokens[index].start, self._tokens[self.closing(index)].end + 1

    def closing(self, opening: int) -> int:
        """The index of the token that closes the parenthesis at token `opening`."""
        depth = 0
        for index in range(opening, len(self._tokens)):
            name = self._tokens[index].name
            depth += (name == _OPEN) - (name == _CLOSE)
            if depth == 0:
                return index
        raise parse.CannotDeparse("unbalanced parentheses")

    def _call_name(self, node: tree.Node) -> tuple[int, int]:
        if node.funcformat.name == "COERCE_SQL_SYNTAX":
            raise parse.CannotDeparse("special syntax")
        first = self._index(node.location)
        last = self._name_end(first, len(node.funcname))
        if last + 1 >= len(self._tokens) or self._tokens[last + 1].name != _OPEN:
            raise parse.CannotDeparse("not a plain call")
        return first, last

    def _index(self, location: int) -> int:
        index = bisect.bisect_left(self._starts, location)
        if index == len(self._starts) or self._starts[index] != location:
            raise parse.CannotDeparse(f"no token at {location}")
        return index

    def _name_end(self, first: int, parts: int) -> int:
        """The index of the last token of a name of so many parts joined by dots."""
        index = first
        for number in range(parts):
            if number:
                index += 1
                if self._tokens[index].name != _DOT:
                    raise parse.CannotDeparse("a name is not where it should be")
                index += 1
            following = self._tokens[index + 1].name if index + 1 < len(self._tokens) else ""
            if self._tokens[index].name == "UIDENT" and following == "UESCAPE":
                index += 2
        return index

    def _alias_end(self, last: int, node: tree.Node, end: int) -> int:
        """Where the alias after a relation's name ends, its column names included."""
        if node.alias is None:
            return end
        index = last + 1
        while self._tokens[index].start < end or self._tokens[index].name == "AS":
            index += 1
        index = self._name_end(index, 1)
        if node.alias.colnames:
            index = self.closing(index + 1)
        return int(self._tokens[index].end) + 1


def says_scroll(statement: parse.Statement) -> bool:
    """Whether a DECLARE says SCROLL or NO SCROLL."""
    return bool(statement.tree.options & (_SCROLL | _NO_SCROLL))


def with_scroll(sql: str, *, goes_back: bool) -> str:
    """A rewritten DECLARE that did not say SCROLL or NO SCROLL, saying it."""
    word = next(token for token in parser.scan(sql)[2:] if token.name == "CURSOR")
    return f"{sql[: word.start]}{'' if goes_back else 'NO '}SCROLL {sql[word.start :]}"
