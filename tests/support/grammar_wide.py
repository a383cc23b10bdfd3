"""More shapes than `tests.support.grammar` has: what a report or an ORM asks, over every kind of value.

`TABLES` and `fill` say what the tables hold: jsonb, arrays, floats with NaN and infinities, text in two
collations. Floats are compared and sorted, not summed, and no two values that are equal print differently: else
there is no one right answer.
"""

from __future__ import annotations

from tests.support import grammar

#: As `grammar.TABLES`, with more columns behind.
TABLES = {
    **grammar.TABLES,
    "p": (grammar.TABLES["p"][0] + ", j jsonb, l int[]", "a"),
    "q": (grammar.TABLES["q"][0] + ', g float8, h text COLLATE "C", v numeric', "a"),
}
_JSON = ("'{}'", "'{\"k\": 1}'", '\'{"k": null, "m": [1, 2]}\'', "'[1, \"x\"]'", "'3'", "'null'", "NULL")
_ARRAYS = ("'{}'", "'{1,2}'", "'{2,NULL}'", "'{3}'", "'{1,2,3}'", "NULL")
_FLOATS = ("'NaN'", "'Infinity'", "'-Infinity'", "0", "1e-300", "1e300", "0.1", "-2.5", "NULL")
_LATIN = ("'a'", "'B'", "'b'", "'A'", "'ä'", "' b'", "'_'", "NULL")
_NUMERICS = ("'NaN'", "0", "1.5", "-7", "123456789012345678901234567890.5", "1e-20", "NULL")
_CHOICES = {"p": (_JSON, _ARRAYS), "q": (_FLOATS, _LATIN, _NUMERICS)}


def fill(seed: int, rows: int = 24) -> list[str]:
    """The INSERTs that fill the tables."""
    return grammar.fill(seed, rows, _CHOICES)


class Wide(grammar.Grammar):
    """Makes statements; the same for the same seed."""

    def query(self) -> str:
        """A SELECT."""
        more = [
            self._sets,
            self._lateral,
            self._distinct_on,
            self._values_join,
            self._arms,
            self._correlated,
            self._rich,
            self._rich_grouped,
            self._framed,
            self._constants,
            self._nested_with,
        ]
        return self.random.choice([super().query, super().query, *more, *more])()

    # --- shapes ----------------------------------------------------------------------------------

    def _sets(self) -> str:
        source = self._from(self.random.choice([1, 1, 2]))
        first, second = self._int(), self._text()
        sets = self.random.choice(
            [
                f"({first}), ({second}), ()",
                f"({first}, {second}), ({second})",
                f"(), ({first})",
                f"({second})",
                f"ROLLUP ({first}, {second}), ({first})",
                f"CUBE ({first}, {second})",
            ]
        )
        keys = (
            f"{first}, {second}" if first in sets and second in sets else first if first in sets else second
        )
        word = self.random.choice(["", "", "DISTINCT "])
        having = self.random.choice(["", "", " HAVING count(*) > 2", f" HAVING grouping({keys}) = 0"])
        return (
            f"SELECT {keys}, grouping({keys}), {self._aggregate()} FROM {source}{self._where(0.5)}"
            f" GROUP BY {word}GROUPING SETS ({sets}){having}"
        )

    def _lateral(self) -> str:
        source = self._from(self.random.choice([1, 1, 2]))
        table, number = self.random.choice(["p", "q", "s", "r"]), self._int()
        column = f"z.{self.random.choice(grammar.JOINED[table])}"
        inner = self.random.choice(
            [
                f"SELECT count(*) AS n, max({column}) AS m FROM {table} AS z WHERE {column} = {number}",
                (
                    f"SELECT {column} AS n, z.b AS m FROM {table} AS z WHERE {column} <= {number}"
                    f" ORDER BY 1 NULLS LAST, 2 NULLS FIRST LIMIT 2"
                ),
                f"SELECT DISTINCT {column} AS n, {number} AS m FROM {table} AS z WHERE z.b = {number}",
                f"SELECT g AS n, g * {number} AS m FROM generate_series(0, {number}) AS g",
                f"SELECT n, m FROM (VALUES ({number}, 1), (2, {number})) AS v(n, m) WHERE n > 0",
            ]
        )
        kind = self.random.choice(["CROSS JOIN LATERAL", "LEFT JOIN LATERAL"])
        on = " ON true" if kind.startswith("LEFT") else ""
        listed = self.random.choice([f"{number}, o.n, o.m", "count(*), sum(o.n), min(o.m)"])
        return f"SELECT {listed} FROM {source} {kind} ({inner}) AS o{on}{self._where(0.5)}"

    def _distinct_on(self) -> str:
        source = self._from(self.random.choice([1, 2]))
        keys = [self._int(), self._text()][: self.random.choice([1, 2])]
        outputs = [*keys, self._int(), self._text(), self._scalar()]
        order = [f"{n + 1}{self.random.choice(['', ' DESC', ' NULLS FIRST'])}" for n in range(len(outputs))]
        tail = self.random.choice(["", " LIMIT 3", " OFFSET 1"])
        return (
            f"SELECT DISTINCT ON ({', '.join(keys)}) {', '.join(outputs)} FROM {source}{self._where()}"
            f" ORDER BY {', '.join(order)}{tail}"
        )

    def _values_join(self) -> str:
        source = self._from(self.random.choice([1, 2]))
        number = self._int()
        rows = ", ".join(f"({self._number()}, {self.random.choice(grammar.WORDS)})" for _ in range(3))
        kind = self.random.choice(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"])
        where = "" if kind in ("RIGHT JOIN", "FULL JOIN") else self._where(0.5)
        listed = self.random.choice([f"{number}, v.w", "v.n, count(*), max(v.w)"])
        tail = " GROUP BY v.n" if listed.startswith("v.n") else ""
        return (
            f"SELECT {listed} FROM {source} {kind} (VALUES {rows}) AS v(n, w) ON v.n = {number}{where}{tail}"
        )

    def _arms(self) -> str:
        arms = []
        for _ in range(self.random.choice([2, 3, 3, 4])):
            source = self._from(1)
            one = self.random.choice([self._int(), self._int(), "NULL::int", "1"])
            arm = f"SELECT {one}, {self._text()} FROM {source}{self._where(0.5)}"
            if self.random.random() < 0.2:
                arm = f"({arm} ORDER BY 1, 2 LIMIT {self.random.choice([1, 4])})"
            arms.append(arm)
        words = ["UNION", "UNION ALL", "EXCEPT", "INTERSECT", "INTERSECT ALL"]
        text = arms[0]
        for arm in arms[1:]:
            text = f"{text} {self.random.choice(words)} {arm}"
        return text + self.random.choice(["", " ORDER BY 1, 2", " ORDER BY 2 DESC, 1 LIMIT 4"])

    def _correlated(self) -> str:
        source = self._from(self.random.choice([1, 1, 2]))
        number, text = self._int(), self._text()
        table = self.random.choice(["p", "q", "s", "r"])
        column, word = f"z.{self.random.choice(grammar.JOINED[table])}", f"z.{grammar.TEXTS[table][0]}"
        negation = self.random.choice(["", "NOT "])
        condition = self.random.choice(
            [
                f"{number} {negation}IN (SELECT {column} FROM {table} AS z WHERE {word} = {text})",
                f"({number}, {text}) {negation}IN (SELECT {column}, {word} FROM {table} AS z)",
                f"{negation}EXISTS (SELECT 1 FROM {table} AS z WHERE {column} < {number} AND {word} >= {text})",
                f"{number} = ANY (SELECT {column} FROM {table} AS z WHERE z.b = {number})",
                f"{number} <> ALL (SELECT {column} FROM {table} AS z WHERE {word} <> {text})",
                (
                    f"{negation}EXISTS (SELECT 1 FROM {table} AS z WHERE {column} = {number}"
                    f" AND {negation}EXISTS (SELECT 1 FROM q AS y WHERE y.a = {column} AND y.b = {number}))"
                ),
                f"{number} IS NOT DISTINCT FROM (SELECT min({column}) FROM {table} AS z WHERE {word} = {text})",
            ]
        )
        value = self.random.choice(
            [
                f"(SELECT max({column}) FROM {table} AS z WHERE {word} = {text})",
                f"(SELECT string_agg({word}, '' ORDER BY {word}) FROM {table} AS z WHERE {column} = {number})",
                f"ARRAY(SELECT {column} FROM {table} AS z WHERE {word} = {text} ORDER BY 1)",
                f"CASE WHEN {condition} THEN 1 ELSE 0 END",
                number,
            ]
        )
        if self.random.random() < 0.3:
            return f"SELECT {value}, count(*) FROM {source} WHERE {condition} GROUP BY 1"
        return f"SELECT {number}, {value} FROM {source} WHERE {condition}"

    def _rich(self) -> str:
        """Columns of the less common types, compared, sorted, made distinct."""
        table = self.random.choice(["p", "q"])
        pick = self._rich_value(table)
        condition = self.random.choice(self._rich_conditions(table))
        distinct = self.random.choice(["", "DISTINCT "])
        order = self.random.choice(["", f" ORDER BY 1 {self.random.choice(['', 'DESC', 'NULLS FIRST'])}, 2"])
        limit = self.random.choice(["", " LIMIT 7"]) if order else ""
        return f"SELECT {distinct}{pick}, t.b FROM {table} AS t WHERE {condition}{order}{limit}"

    def _rich_grouped(self) -> str:
        table = self.random.choice(["p", "q"])
        key = self._rich_value(table)
        results = {
            "p": [
                "max(t.l)",
                "count(DISTINCT t.j)",
                "jsonb_agg(t.j ORDER BY t.j)",
                "array_agg(t.a ORDER BY t.l, t.a)",
                "count(t.j -> 'k')",
                "sum(cardinality(t.l))",
                "min(t.d)",
                "sum(t.d)",
                "avg(t.d)",
            ],
            "q": [
                "min(t.g)",
                "max(t.g)",
                "max(t.h)",
                'min(t.h COLLATE "C")',
                "sum(t.v)",
                "count(DISTINCT t.v)",
                "avg(t.v)",
                "max(t.v)",
                "count(DISTINCT t.g)",
                "string_agg(t.h, '' ORDER BY t.h)",
            ],
        }[table]
        condition = self.random.choice(["true", "t.b > 0", *self._rich_conditions(table)])
        chosen = ", ".join(self.random.sample(results, 2))
        return f"SELECT {key}, {chosen}, count(*) FROM {table} AS t WHERE {condition} GROUP BY 1"

    def _rich_value(self, table: str) -> str:
        options = {
            "p": [
                "t.j",
                "t.l",
                "t.j -> 'm'",
                "t.j ->> 'k'",
                "t.l[1]",
                "t.l || t.a",
                "jsonb_typeof(t.j)",
                "t.d",
                "cardinality(t.l)",
                "t.d::int",
                "ROW(t.a, t.c)::text",
                "array_position(t.l, 2)",
            ],
            "q": [
                "t.g",
                "t.h",
                "t.v",
                "t.g::text",
                "abs(t.g)",
                "t.v * 2",
                "round(t.v, 1)",
                "lower(t.h)",
                "-t.v",
                "t.h || coalesce(t.c, '')",
                "t.g = 'NaN'",
                "sign(t.v)",
                "t.e / 7",
                "t.e::numeric / 7",
            ],
        }
        return self.random.choice(options[table])

    def _rich_conditions(self, table: str) -> list[str]:
        return {
            "p": [
                "t.j ? 'k'",
                "t.j @> '{\"m\": [1]}'",
                "t.l @> '{2}'",
                "t.l && '{1,3}'",
                "2 = ANY (t.l)",
                "t.l IS NULL",
                "t.l = '{}'",
                "t.j IS NOT NULL",
                "t.l < '{2}'",
                "t.d BETWEEN 0 AND 50.5",
            ],
            "q": [
                "t.g > 0",
                "t.g = 0",
                "t.g <> 'NaN'",
                "t.g IS NULL",
                "t.v >= 1.5",
                "t.v = 1.50",
                "t.v <> 'NaN'",
                "t.h > 'a'",
                "t.h BETWEEN 'A' AND 'b'",
                "t.h LIKE '%b'",
                "t.g IN (0, 'NaN')",
                "t.v IN (0, 1.5)",
            ],
        }[table]

    def _framed(self) -> str:
        source = self._from(self.random.choice([1, 1, 2]))
        key, number = self.random.choice([self._int(), self._text()]), self._int()
        # all that tells rows apart: then every frame has one right answer
        order = f"{self._int()} {self.random.choice(['', 'DESC', 'NULLS FIRST'])}, {self._text()}"
        frame = self.random.choice(
            [
                "RANGE UNBOUNDED PRECEDING",
                "GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW",
                "RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
                "GROUPS UNBOUNDED PRECEDING EXCLUDE GROUP",
            ]
        )
        call = self.random.choice(
            ["count(*)", f"sum({number})", f"min({number})", f"avg({number})", "rank()"]
        )
        window = f"PARTITION BY {key} ORDER BY {order} {frame}"
        if self.random.random() < 0.3:
            return (
                f"SELECT {key}, sum({number}), rank() OVER (ORDER BY sum({number}), {key})"
                f" FROM {source}{self._where(0.5)} GROUP BY {key}"
            )
        return f"SELECT {key}, {call} OVER w FROM {source}{self._where(0.5)} WINDOW w AS ({window})"

    def _constants(self) -> str:
        """Aggregates of constants, conditions that hold for no row or do not depend on it."""
        source = self._from(self.random.choice([1, 2]))
        options = [
            "count(*)",
            "sum(3)",
            "avg(DISTINCT 5)",
            "count(DISTINCT 7)",
            "min(2)",
            "count(NULL)",
            "max('x'::text)",
        ]
        options += [
            "sum(DISTINCT 4) * count(*)",
            "array_agg(DISTINCT 1)",
            "string_agg(DISTINCT 'y', ',')",
            "bool_and(true)",
        ]
        options += [f"sum({self._int()})", "count(*) FILTER (WHERE false)", "sum(1) FILTER (WHERE NULL)", "2"]
        where = self.random.choice(
            ["", " WHERE false", " WHERE NULL", " WHERE 1 > 2", f" WHERE {self._int()} > 900"]
        )
        tail = self.random.choice(["", "", " HAVING count(*) >= 0", " HAVING false", " HAVING min(1) = 1"])
        if self.random.random() < 0.3:
            tail = f" GROUP BY {self._int()}{tail}"
        distinct = self.random.choice(["", "DISTINCT "])
        aggregate = self.random.choice(options[:-1])
        return f"SELECT {distinct}{aggregate}, {self.random.choice(options)} FROM {source}{where}{tail}"

    def _nested_with(self) -> str:
        first = self._inner_group()
        source = self._from(self.random.choice([1, 2]))
        number = self._int()
        condition = self._condition(1)
        return self.random.choice(
            [
                (
                    f"WITH w AS ({first}), u AS (SELECT a, n FROM w WHERE n > 1) SELECT {number}, count(*) FROM {source}"
                    f" WHERE {number} IN (SELECT a FROM u) AND {condition} GROUP BY 1"
                ),
                (
                    f"WITH w AS (SELECT {number} AS k FROM {source} WHERE {condition}) SELECT x.k, y.n FROM w AS x"
                    f" LEFT JOIN ({first}) AS y ON y.a = x.k"
                ),
                (
                    f"WITH w AS (SELECT {number} AS k FROM {source}) SELECT k, (SELECT count(*) FROM w AS o WHERE o.k < w.k)"
                    f" FROM w WHERE k > 0"
                ),
                f"SELECT count(*) FROM (WITH w AS ({first}) SELECT a FROM w UNION ALL SELECT {number} FROM {source}) AS o",
                (
                    f"WITH RECURSIVE w(k, n) AS (SELECT {number}, 0 FROM {source} WHERE {condition}"
                    f" UNION SELECT k - 1, n + 1 FROM w WHERE k > 0 AND n < 3) SELECT k, n FROM w"
                ),
            ]
        )
