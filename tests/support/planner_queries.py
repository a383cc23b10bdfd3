"""SELECTs made at random over the tables of `planner_data`: the same seed gives the same query.

They are kept to what has one answer: where rows are cut by LIMIT they are sorted by all columns,
and sums are of numbers that add up exactly.
"""

from __future__ import annotations

import random

Columns = dict[str, str]  # name to kind of type
Scope = list[tuple[str, Columns]]  # aliases and their columns

TABLES: dict[str, Columns] = {
    "a": {
        "id": "int",
        "k": "int",
        "x": "num",
        "s": "text",
        "ts": "ts",
        "f": "float",
        "b": "bool",
        "d": "date",
    },
    "b": {"id": "int", "k": "int", "y": "int", "n": "text", "d": "date"},
    "c": {"key": "text", "id": "int", "v": "int", "r": "float"},
    "r": {"k": "int", "name": "text", "w": "interval"},
    "l": {"id": "int", "note": "text"},
    "va": {"id": "int", "label": "text", "dbl": "num", "ts": "ts"},
}
_WEIGHTS = {"a": 6.0, "b": 5.0, "c": 2.0, "r": 3.0, "l": 1.0, "va": 1.5}
_CONSTANTS = {
    "int": ["0", "1", "2", "3", "5", "7", "12", "33", "-1"],
    "num": ["1.5", "3", "7.25"],
    "text": ["'x'", "'y'", "'k3'", "'name1'", "'n2'", "'Zed'"],
    "ts": [f"'2020-01-{day:02d}'" for day in range(1, 31)],
    "float": ["1.5", "50", "0.25"],
    "bool": ["true"],
    "date": [f"'2020-01-{day:02d}'" for day in range(1, 30)],
    "interval": ["'2 min'"],
}


def query(seed: int) -> str:
    """The query of a seed."""
    return _Maker(random.Random(seed)).query()


class _Maker:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.aliases = 0

    def alias(self) -> str:
        self.aliases += 1
        return f"t{self.aliases}"

    def pick(self, scope: Scope, *kinds: str) -> tuple[str, str]:
        """A column of one of `kinds` (any, if none is given or none fits) and its kind."""
        every = [(f"{alias}.{name}", kind) for alias, columns in scope for name, kind in columns.items()]
        return self.chance.choice([item for item in every if item[1] in kinds] or every)

    def constant(self, kind: str) -> str:
        return self.chance.choice(_CONSTANTS[kind])

    def condition(self, scope: Scope, depth: int = 0) -> str:
        column, kind = self.pick(scope)
        simple = [
            lambda: f"{column} {self.chance.choice(['=', '<', '>=', '<>', '>', '<='])} {self.constant(kind)}",
            lambda: f"{column} = {self.constant(kind)}",
            lambda: f"{column} IS {self.chance.choice(['', 'NOT '])}NULL",
            lambda: f"{column} IN ({self.constant(kind)}, {self.constant(kind)})",
            lambda: f"{column} BETWEEN {self.constant(kind)} AND {self.constant(kind)}",
        ]
        if kind in ("int", "text"):
            simple.append(lambda: f"{column} = ANY (ARRAY[{self.constant(kind)}, {self.constant(kind)}])")
        nested = [
            lambda: f"({self.condition(scope, depth + 1)} OR {self.condition(scope, depth + 1)})",
            lambda: f"NOT ({self.condition(scope, depth + 1)})",
            lambda: self.subquery(scope, column, kind, depth),
        ]
        if depth < 2 and self.chance.random() < 0.3:
            return self.chance.choice(nested)()
        return self.chance.choice(simple)()

    def subquery(self, scope: Scope, column: str, kind: str, depth: int) -> str:
        table = self.chance.choice(list(TABLES))
        alias = self.alias()
        inner: Scope = [(alias, TABLES[table])]
        other, other_kind = self.pick(inner, kind)
        if other_kind != kind:
            return f"{column} IS NOT NULL"
        outer = column.split(".")[0]
        bound = ""
        if "id" in TABLES[table] and "id" in dict(scope)[outer] and self.chance.random() < 0.6:
            bound = f" AND {alias}.id = {outer}.id"
        where = f"FROM {table} {alias} WHERE {self.condition(inner, depth + 1)}{bound}"
        forms = [f"{column} IN (SELECT {other} {where})", f"EXISTS (SELECT 1 {where} AND {other} = {column})"]
        if kind != "bool":
            forms.append(f"{column} = (SELECT max({other}) {where})")
        return self.chance.choice(forms)

    def leaf(self) -> tuple[str, Scope]:
        alias = self.alias()
        if self.chance.random() < 0.15:
            sql, columns = self.derived()
            return f"({sql}) {alias}", [(alias, columns)]
        (table,) = self.chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        return f"{table} {alias}", [(alias, TABLES[table])]

    def from_clause(self) -> tuple[str, Scope]:
        text, scope = self.leaf()
        for _ in range(self.chance.choices([0, 1, 2], [5, 4, 1.5])[0]):
            right, added = self.leaf()
            kind = self.chance.choice(["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN"])
            text = f"{text} {kind} {right}{self.join_condition(kind, scope, added)}"
            scope = scope + added
        return text, scope

    def join_condition(self, kind: str, left: Scope, right: Scope) -> str:
        if kind == "CROSS JOIN":
            return ""
        keyed = [alias for alias, columns in left if "id" in columns]
        if keyed and "id" in right[0][1] and self.chance.random() < 0.75:
            on = f"{self.chance.choice(keyed)}.id = {right[0][0]}.id"
        else:
            column, column_kind = self.pick(left)
            other, other_kind = self.pick(right, column_kind)
            on = (
                f"{column} = {other}"
                if other_kind == column_kind
                else f"({column} IS NULL) = ({other} IS NULL)"
            )
        if kind != "FULL JOIN" and self.chance.random() < 0.25:
            on += f" AND {self.condition(left + right, 2)}"
        return f" ON {on}"

    def derived(self) -> tuple[str, Columns]:
        table = self.chance.choice(["a", "b", "c"])
        alias = self.alias()
        scope: Scope = [(alias, TABLES[table])]
        where = f"FROM {table} {alias}" + (
            f" WHERE {self.condition(scope, 1)}" if self.chance.random() < 0.5 else ""
        )
        form = self.chance.randrange(4)
        if form == 0:
            grouped = f"SELECT {alias}.id, count(*) AS n, max({alias}.id) AS m {where} GROUP BY {alias}.id"
            return grouped, {"id": "int", "n": "int", "m": "int"}
        column, kind = self.pick(scope)
        if form == 1:
            return f"SELECT {column} AS g, count(*) AS n {where} GROUP BY 1", {"g": kind, "n": "int"}
        if form == 2:
            return f"SELECT * {where}", TABLES[table]
        distinct = "DISTINCT " if self.chance.random() < 0.3 else ""
        return f"SELECT {distinct}{column} AS g, {alias}.id {where}", {"g": kind, "id": "int"}

    def query(self) -> str:
        if self.chance.random() < 0.12:
            return self.united()
        return self.select()

    def united(self) -> str:
        """A set operation of two or three branches of one column each, of one kind of type."""
        kind = self.chance.choice(["int", "text", "num", "date"])
        text = self.branch(kind)
        for _ in range(self.chance.choice([1, 1, 2])):
            word = self.chance.choice(
                ["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL", "INTERSECT ALL"]
            )
            text = f"{text} {word} {self.branch(kind)}"
        return text + self.tail(1)

    def branch(self, kind: str) -> str:
        body, scope = self.body()
        column, found = self.pick(scope, kind)
        form = self.chance.randrange(6)
        if found != kind or form == 0:
            typed = {"num": "CAST(NULL AS numeric)", "date": "CAST(NULL AS date)"}
            return f"SELECT {typed.get(kind) or self.constant(kind)} FROM b"
        if form == 1 and kind != "text":
            return f"SELECT max({column}) {body}"
        if form == 2:
            return f"SELECT {column} {body} GROUP BY 1 HAVING count(*) > 1"
        if form == 3:
            return f"(SELECT {column} {body} ORDER BY 1 LIMIT {self.chance.randrange(9)})"
        return f"SELECT {column} {body}"

    def select(self) -> str:
        body, scope = self.body()
        form = self.chance.random()
        if form < 0.08:
            return self.windowed(body, scope)
        if form < 0.14:
            columns = list(dict.fromkeys(self.pick(scope)[0] for _ in range(3)))
            return (
                f"SELECT DISTINCT ON ({columns[0]}) {', '.join(columns)} {body} ORDER BY {', '.join(columns)}"
            )
        return self.plain(body, scope) if form < 0.45 else self.aggregated(body, scope)

    def windowed(self, body: str, scope: Scope) -> str:
        items = [self.pick(scope)[0] for _ in range(self.chance.randrange(1, 3))]
        number, kind = self.pick(scope, "int", "num")
        calls = ["rank()", "dense_rank()", "count(*)", "percent_rank()"]
        if kind in ("int", "num"):
            calls += [f"sum({number})", f"avg({number}) FILTER (WHERE {self.condition(scope, 2)})"]
        for _ in range(self.chance.randrange(1, 3)):
            call = self.chance.choice(calls)
            by = f"PARTITION BY {self.pick(scope)[0]} " if self.chance.random() < 0.7 else ""
            items.append(f"{call} OVER ({by}ORDER BY {self.pick(scope)[0]})")
        return f"SELECT {', '.join(items)} {body}"

    def body(self) -> tuple[str, Scope]:
        """FROM and WHERE, and what they make visible."""
        text, scope = self.from_clause()
        terms = [self.condition(scope) for _ in range(self.chance.randrange(3))]
        keyed = [alias for alias, columns in scope if "id" in columns]
        if keyed and self.chance.random() < 0.25:
            terms.append(f"{self.chance.choice(keyed)}.id = {self.chance.choice([3, 12, 33])}")
        return f"FROM {text}" + (f" WHERE {' AND '.join(terms)}" if terms else ""), scope

    def plain(self, body: str, scope: Scope) -> str:
        if self.chance.random() < 0.15:
            return f"SELECT * {body}"
        items = [self.pick(scope)[0] for _ in range(self.chance.randrange(1, 4))]
        column, kind = self.pick(scope, "int")
        if kind == "int" and self.chance.random() < 0.3:
            items.append(f"{column} + 1 AS plus")
        distinct = "DISTINCT " if self.chance.random() < 0.2 else ""
        return f"SELECT {distinct}{', '.join(items)} {body}{self.tail(len(items))}"

    def tail(self, count: int) -> str:
        if self.chance.random() < 0.6:
            return ""
        directions = ["", " DESC", " NULLS FIRST"]
        text = " ORDER BY " + ", ".join(f"{n}{self.chance.choice(directions)}" for n in range(1, count + 1))
        if self.chance.random() < 0.6:
            text += f" LIMIT {self.chance.randrange(9)}"
        return text + (f" OFFSET {self.chance.randrange(4)}" if self.chance.random() < 0.3 else "")

    def aggregated(self, body: str, scope: Scope) -> str:
        calls = [self.aggregate(scope) for _ in range(self.chance.randrange(1, 4))]
        if self.chance.random() < 0.35:
            return f"SELECT {', '.join(calls)} {body}"
        groups = list(dict.fromkeys(self.group(scope) for _ in range(self.chance.randrange(1, 3))))
        by = ", ".join(groups)
        if self.chance.random() < 0.4:
            by = ", ".join(str(number) for number in range(1, len(groups) + 1))
        elif self.chance.random() < 0.2:
            by = f"{self.chance.choice(['ROLLUP', 'CUBE'])} ({by})"
        having = " HAVING count(*) > 1" if self.chance.random() < 0.3 else ""
        items = groups + calls
        return f"SELECT {', '.join(items)} {body} GROUP BY {by}{having}{self.tail(len(items))}"

    def group(self, scope: Scope) -> str:
        column, kind = self.pick(scope)
        if kind == "ts" and self.chance.random() < 0.6:
            return f"date_trunc('week', {column})"
        return f"{column} % 3" if kind == "int" and self.chance.random() < 0.3 else column

    def aggregate(self, scope: Scope) -> str:
        number, kind = self.pick(scope, "int", "num", "float", "interval")
        anything, any_kind = self.pick(scope)
        forms = ["count(*)", f"count({anything})", f"count(DISTINCT {anything})"]
        forms.append(f"bool_or({self.condition(scope, 2)})")
        if any_kind != "bool":
            forms.append(f"{self.chance.choice(['min', 'max'])}({anything})")
        if kind in ("int", "num", "float", "interval"):
            forms += [
                f"sum({number})",
                f"avg({number})",
                f"avg({number}) FILTER (WHERE {self.condition(scope, 2)})",
            ]
        if kind in ("int", "num"):
            forms += [f"sum({number} * 2 + 1)", f"coalesce(sum({number}), 0) + count(*)"]
            forms += [f"{name}({number})" for name in ("stddev", "var_pop", f"sum(DISTINCT {number}), avg")]
        if kind == "float":
            forms.append(f"var_samp({number})")
        if any_kind == "text" and self.chance.random() < 0.5:
            forms = [
                f"string_agg({anything}, '-' ORDER BY {anything})",
                f"string_agg(DISTINCT {anything}, ',')",
            ]
        elif self.chance.random() < 0.1:
            forms = [
                f"array_agg({anything} ORDER BY {anything})",
                f"mode() WITHIN GROUP (ORDER BY {anything})",
            ]
        return self.chance.choice(forms)
