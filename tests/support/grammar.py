"""Random SELECTs over four small tables full of nulls: whatever they are asked, there is one right answer.

`TABLES` says what the tables are and `fill` what they hold. A `Grammar` makes statements from a seed: joins of
every kind, semi- and anti-joins, aggregates, windows, set operations, CTEs and sub-SELECTs. LIMIT
only follows an ORDER BY of all columns, windows are ordered by all that tells rows apart, nothing
divides by zero, and no number leaves its type.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence

#: Name, columns, distribution column. All but `r` have a time column `at`.
TABLES = {
    "p": ("a int, b int, c text, d numeric(8, 2), at timestamptz NOT NULL", "a"),
    "q": ("a int, b int, c text, e bigint, at timestamptz NOT NULL", "a"),
    "s": ("k text, b int, f date, at timestamptz NOT NULL", "k"),
    "r": ("b int, name text", ""),
}
_INTS = {"p": ("a", "b"), "q": ("a", "b", "e"), "s": ("b",), "r": ("b",), "x": ("a", "n")}
TEXTS = {"p": ("c",), "q": ("c",), "s": ("k",), "r": ("name",), "x": ()}
JOINED = {"p": ("a", "b"), "q": ("a", "b"), "s": ("b",), "r": ("b",), "x": ("a",)}
WORDS = ("'x'", "'y'", "'zz'", "''", "'Ä'", "'x y'")
_KINDS = ("JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN")


def fill(seed: int, rows: int = 24, more: Mapping[str, Sequence[Sequence[str]]] | None = None) -> list[str]:
    """The INSERTs that fill the tables; `more` gives the constants to choose from for columns behind the others."""
    pick = random.Random(f"rows {seed}")

    def number(low: int, high: int) -> str:
        return "NULL" if pick.random() < 0.15 else str(pick.randint(low, high))

    def word() -> str:
        return "NULL" if pick.random() < 0.15 else pick.choice(WORDS)

    def time() -> str:
        return f"'2024-01-{pick.randint(1, 9):02d} {pick.randint(0, 23):02d}:00+00'"

    def day() -> str:
        return "NULL" if pick.random() < 0.2 else f"'2024-02-{pick.randint(1, 5):02d}'"

    made = {
        "p": lambda: (
            f"({number(0, 6)}, {number(-3, 6)}, {word()}, {number(-9, 99)}.{pick.randint(10, 99)}, {time()})"
        ),
        "q": lambda: f"({number(0, 6)}, {number(-3, 6)}, {word()}, {number(0, 5000)}, {time()})",
        "s": lambda: f"({word()}, {number(-3, 6)}, {day()}, {time()})",
        "r": lambda: f"({number(-3, 6)}, {word()})",
    }
    return [
        f"INSERT INTO {table} VALUES "
        + ", ".join(
            one().replace("NULL.", "NULL + 0.").removesuffix(")")
            + "".join(f", {pick.choice(values)}" for values in (more or {}).get(table, ()))
            + ")"
            for _ in range(rows if table != "r" else 7)
        )
        for table, one in made.items()
    ]


@dataclasses.dataclass(frozen=True)
class _Item:
    table: str
    alias: str


class Grammar:
    """Makes statements; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._items: list[_Item] = []
        self._names = 0

    def query(self) -> str:
        """A SELECT."""
        shape = self.random.choice(
            [
                *(self._plain, self._plain, self._grouped, self._grouped, self._sorted),
                *(self._set_operation, self._window, self._with, self._derived),
            ]
        )
        return shape()

    def partition(self) -> tuple[str, tuple[str, str, str]]:
        """A query, and three whose rows together are its rows: where p, where not p, where p is null."""
        source = self._from()
        listed, where, condition = self._outputs(), self._where(0.5), self._condition(2)
        base = f"SELECT {listed} FROM {source}{where}"
        joint = " AND" if where else " WHERE"
        return base, (
            f"{base}{joint} ({condition})",
            f"{base}{joint} NOT ({condition})",
            f"{base}{joint} ({condition}) IS NULL",
        )

    # --- shapes ----------------------------------------------------------------------------------

    def _plain(self) -> str:
        source = self._from()
        distinct = "DISTINCT " if self.random.random() < 0.3 else ""
        return f"SELECT {distinct}{self._outputs()} FROM {source}{self._where()}"

    def _grouped(self) -> str:
        source = self._from()
        keys = [self._scalar() for _ in range(self.random.choice([0, 1, 1, 2]))]
        results = [self._aggregate() for _ in range(self.random.choice([1, 2, 3]))]
        where, tail = self._where(0.5), ""
        if keys:
            positions = ", ".join(str(number + 1) for number in range(len(keys)))
            tail = f" GROUP BY {positions}"
            if len(keys) == 2 and self.random.random() < 0.25:
                tail = f" GROUP BY {self.random.choice(['ROLLUP', 'CUBE'])} ({positions})"
        if self.random.random() < 0.3:
            tail += f" HAVING {self._aggregate()} IS NOT NULL AND count(*) > {self.random.choice([0, 2, 9])}"
        return f"SELECT {', '.join(keys + results)} FROM {source}{where}{tail}"

    def _sorted(self) -> str:
        source = self._from()
        count = self.random.choice([1, 2, 3])
        listed = ", ".join(self._scalar() for _ in range(count))
        order = [
            f"{n + 1}{self.random.choice(['', ' DESC', ' NULLS FIRST', ' DESC NULLS LAST'])}"
            for n in range(count)
        ]
        self.random.shuffle(order)
        limit = f" LIMIT {self.random.choice([0, 1, 5, 20])}" + self.random.choice(["", " OFFSET 2"])
        return f"SELECT {listed} FROM {source}{self._where()} ORDER BY {', '.join(order)}{limit}"

    def _set_operation(self) -> str:
        word = self.random.choice(
            ["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL", "INTERSECT ALL"]
        )
        arms = []
        for _ in range(2):
            source = self._from(self.random.choice([1, 2]))
            arms.append(f"SELECT {self._int()}, {self._text()} FROM {source}{self._where()}")
        return f"{arms[0]} {word} {arms[1]}"

    def _window(self) -> str:
        source = self._from(self.random.choice([1, 2]))
        key, order = self._int(), f"{self._int()}, {self._text()}"
        call = self.random.choice(
            [
                f"rank() OVER (PARTITION BY {key} ORDER BY {order})",
                f"sum({self._int()}) OVER (PARTITION BY {key} ORDER BY {order})",
                f"count(*) OVER (PARTITION BY {key})",
                f"dense_rank() OVER (ORDER BY {order})",
                f"max({self._text()}) OVER (PARTITION BY {key}, {self._int()})",
            ]
        )
        return f"SELECT {key}, {call} FROM {source}{self._where()}"

    def _with(self) -> str:
        inner = self._inner_group()
        materialized = self.random.choice(["", "", "MATERIALIZED ", "NOT MATERIALIZED "])
        other = self.random.choice(["p", "q"])
        join = self.random.choice(["JOIN", "LEFT JOIN", "FULL JOIN"])
        return (
            f"WITH w AS {materialized}({inner}) SELECT w.n, t.b, count(*) FROM w {join} {other} AS t "
            f"ON w.a = t.{self.random.choice(['a', 'b'])} GROUP BY 1, 2"
        )

    def _derived(self) -> str:
        inner = self._grouped() if self.random.random() < 0.4 else self._plain()
        return f"SELECT count(*), count(o.z), min(o.z::text), max(o.z::text) FROM ({inner}) AS o (z)"

    # --- parts -----------------------------------------------------------------------------------

    def _alias(self) -> str:
        self._names += 1
        return f"t{self._names}"

    def _from(self, count: int | None = None) -> str:
        self._items = []
        source = ""
        for number in range(count or self.random.choice([1, 1, 2, 2, 3])):
            table = self.random.choice(["p", "p", "q", "q", "s", "r", "x"])
            item = _Item(table, self._alias())
            text = f"{table} AS {item.alias}" if table != "x" else f"({self._inner_group()}) AS {item.alias}"
            if number:
                kind = self.random.choice(_KINDS)
                text = f" {kind} {text} ON {self._on(item, full=kind == 'FULL JOIN')}"
            self._items.append(item)
            source += text
        return source

    def _inner_group(self) -> str:
        table = self.random.choice(["p", "q"])
        key = self.random.choice(["a", "a", "b"])
        return f"SELECT {key} AS a, count(*)::int AS n FROM {table} GROUP BY {key}"

    def _on(self, item: _Item, *, full: bool) -> str:
        other = self.random.choice(self._items)
        left = f"{other.alias}.{self.random.choice(JOINED[other.table])}"
        terms = [f"{left} = {item.alias}.{self.random.choice(JOINED[item.table])}"]
        if not full and self.random.random() < 0.3:
            terms.append(f"{item.alias}.{self.random.choice(_INTS[item.table])} > {self._number()}")
        return " AND ".join(terms)

    def _where(self, chance: float = 0.8) -> str:
        return f" WHERE {self._condition(2)}" if self.random.random() < chance else ""

    def _outputs(self) -> str:
        return ", ".join(self._scalar() for _ in range(self.random.choice([1, 2, 2, 3])))

    def _number(self) -> str:
        return str(self.random.choice([0, 1, 2, 3, 5, -1, 7]))

    def _int(self) -> str:
        item = self.random.choice(self._items)
        return f"{item.alias}.{self.random.choice(_INTS[item.table])}"

    def _text(self) -> str:
        able = [item for item in self._items if TEXTS[item.table]]
        if not able:
            return "'none'::text"
        item = self.random.choice(able)
        return f"{item.alias}.{self.random.choice(TEXTS[item.table])}"

    def _scalar(self) -> str:
        number, text = self._int(), self._text()
        options = [
            number,
            number,
            text,
            f"{number} + {self._int()}",
            f"{number} % 3",
            f"coalesce({text}, 'none')",
        ]
        options += [
            f"CASE WHEN {self._condition(0)} THEN {number} END",
            f"upper({text})",
            f"{number} IS NULL",
        ]
        options += [
            f"nullif({number}, {self._number()})",
            f"{number}::text || {text}",
            f"greatest({number}, 2)",
        ]
        for item in self._items:
            options += [f"{item.alias}.d * 2"] if item.table == "p" else []
            options += [f"{item.alias}.f + 1"] if item.table == "s" else []
            options += [f"date_trunc('day', {item.alias}.at)"] if item.table in ("p", "q", "s") else []
        return self.random.choice(options)

    def _aggregate(self) -> str:
        number, text = self._int(), self._text()
        options = ["count(*)", f"count({number})", f"sum({number})", f"avg({number})", f"min({text})"]
        options += [f"max({number})", f"count(DISTINCT {text})", f"sum(DISTINCT {number})"]
        options += [f"bool_or({number} > 2)", f"count(*) FILTER (WHERE {self._condition(0)})"]
        options += [
            f"string_agg(DISTINCT {text}, ',')",
            f"array_agg({number} ORDER BY {number})",
            f"bit_or({number})",
        ]
        options += [f"sum({number}) FILTER (WHERE {self._condition(0)})", f"max({number}) - min({number})"]
        return self.random.choice(options)

    def _condition(self, depth: int) -> str:
        number, text = self._int(), self._text()
        options = [f"{number} {self.random.choice(['=', '<>', '<', '>='])} {self._number()}"] * 3
        options += [f"{text} = {self.random.choice(WORDS)}", f"{number} IS NULL", f"{text} LIKE 'x%'"]
        options += [f"{number} IN ({self._number()}, {self._number()}, NULL)", f"{number} = {self._int()}"]
        options += [f"{number} BETWEEN 0 AND {self._number()}", f"{number} IS DISTINCT FROM {self._int()}"]
        if depth:
            first, second = self._condition(depth - 1), self._condition(depth - 1)
            options += [f"({first} OR {second})", f"({first} AND {second})", f"NOT ({first})"]
            options += [self._subquery(), self._subquery(), self._subquery()]
        return self.random.choice(options)

    def _subquery(self) -> str:
        table, alias, number = self.random.choice(["p", "q", "s", "r"]), self._alias(), self._int()
        column = f"{alias}.{self.random.choice(JOINED[table])}"
        also = f" AND {alias}.b > {self._number()}" if self.random.random() < 0.5 else ""
        negation = self.random.choice(["", "NOT "])
        return self.random.choice(
            [
                f"{negation}EXISTS (SELECT FROM {table} AS {alias} WHERE {column} = {number}{also})",
                f"{number} {negation}IN (SELECT {column} FROM {table} AS {alias} WHERE {alias}.b > {self._number()})",
                f"{number} > (SELECT avg({column}) FROM {table} AS {alias})",
                f"{number} < (SELECT count(*) FROM {table} AS {alias} WHERE {column} = {number}{also})",
                f"{number} >= ALL (SELECT {column} FROM {table} AS {alias} WHERE {column} IS NOT NULL{also})",
            ]
        )
