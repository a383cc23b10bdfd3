"""Random SELECTs over the flights: shapes nobody thought of, the same for the same seed.

Every query has one right answer whatever the order in which rows are read: LIMIT only follows an
ORDER BY of all columns, floats are compared but not summed, and every division is guarded.
"""

from __future__ import annotations

import dataclasses
import random

_INTEGERS = {
    "flights": [
        "month",
        "day",
        "dep_delay",
        "arr_delay",
        "distance",
        "air_time",
        "flight",
        "hour",
        "dep_time",
    ],
    "airports": ["alt", "tz"],
    "planes": ["year", "seats", "engines"],
    "weather": ["wind_dir", "month", "hour"],
    "airlines": [],
}
_TEXTS = {
    "flights": ["carrier", "origin", "dest", "tailnum"],
    "airports": ["faa", "tzone", "dst"],
    "planes": ["manufacturer", "type", "tailnum"],
    "weather": ["origin"],
    "airlines": ["carrier", "name"],
}
_WORDS = ["UA", "B6", "JFK", "EWR", "BOS", "LAX", "HNL", "ANC", "N14228", "BOEING", "America/Denver", "A", ""]
_TIMES = ["2013-01-15", "2013-03-10 06:00+00", "2013-07-04 12:00+00", "2013-12-31", "2012-01-01", "infinity"]
_JOINS = {
    "airports": "{f}.dest = {o}.faa",
    "planes": "{f}.tailnum = {o}.tailnum",
    "airlines": "{f}.carrier = {o}.carrier",
    "weather": "{f}.origin = {o}.origin AND {f}.time_hour = {o}.time_hour",
    "flights": "{f}.dest = {o}.dest AND {f}.time_hour = {o}.time_hour AND {f}.carrier < {o}.carrier",
}
_SMALL_JOIN = "{f}.month = 2 AND {f}.day < 15"


@dataclasses.dataclass
class _Relation:
    table: str
    alias: str


class Generator:
    """Makes queries from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.relations: list[_Relation] = []

    def query(self) -> str:
        """A statement."""
        chance = self.random.random()
        if chance < 0.12:
            word = self.random.choice(["UNION", "UNION ALL", "INTERSECT", "EXCEPT"])
            return f"{self._set_arm()} {word} {self._set_arm()}"
        if chance < 0.22:
            inner = self._select(group=True, limit=False)
            return f"SELECT count(*), min(c0::text), max(c0::text) FROM ({inner}) AS inner_query WHERE c0 IS NOT NULL"
        if chance < 0.3:
            return f"WITH q AS ({self._select(group=True, limit=False)}) SELECT a.c0, count(*) FROM q AS a JOIN q AS b USING (c0) GROUP BY a.c0"
        return self._select(group=self.random.random() < 0.65, limit=True)

    def _set_arm(self) -> str:
        self._from()
        source = self._source
        column = self._text()
        return f"SELECT {column} FROM {source} WHERE {self._condition()}"

    def _from(self) -> None:
        first = self.random.choice(["flights"] * 6 + ["airports", "planes", "weather"])
        self.relations = [_Relation(first, "t0")]
        source, extra = f"{first} AS t0", []
        if first == "flights":
            for number in range(self.random.choice([0, 0, 1, 1, 2, 3])):
                other = self.random.choice(list(_JOINS))
                if other in {"weather", "flights"}:
                    extra.append(_SMALL_JOIN.format(f="t0"))
                alias = f"t{number + 1}"
                kind = self.random.choice(
                    ["JOIN", "JOIN", "LEFT JOIN", "JOIN", "RIGHT JOIN" if number == 0 else "JOIN"]
                )
                if extra and kind == "RIGHT JOIN":
                    kind = "JOIN"
                source += f" {kind} {other} AS {alias} ON " + _JOINS[other].format(f="t0", o=alias)
                self.relations.append(_Relation(other, alias))
        self._source, self._extra = source, extra

    def _select(self, *, group: bool, limit: bool) -> str:
        self._from()
        conditions = [self._condition() for _ in range(self.random.choice([0, 1, 1, 2]))] + self._extra
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        if group:
            keys = [self._key() for _ in range(self.random.choice([0, 1, 1, 2]))]
            outputs = keys + [self._aggregate() for _ in range(self.random.choice([1, 2, 3]))]
            tail = f" GROUP BY {', '.join(map(str, range(1, len(keys) + 1)))}" if keys else ""
            if self.random.random() < 0.25:
                tail += (
                    f" HAVING {self._aggregate()} IS NOT NULL AND count(*) > {self.random.choice([0, 3, 50])}"
                )
            distinct = ""
        else:
            outputs = [self._scalar() for _ in range(self.random.choice([1, 2, 3, 5]))]
            tail = ""
            distinct = "DISTINCT " if self.random.random() < 0.3 else ""
            if not where:
                where = f" WHERE {self._selective()}"
        columns = ", ".join(f"{output} AS c{number}" for number, output in enumerate(outputs))
        order = ""
        if limit and self.random.random() < 0.5:
            numbers = list(range(1, len(outputs) + 1))
            self.random.shuffle(numbers)
            sorts = [
                f"{n}{self.random.choice(['', ' DESC', ' NULLS FIRST', ' DESC NULLS LAST'])}" for n in numbers
            ]
            order = f" ORDER BY {', '.join(sorts)}"
            if self.random.random() < 0.7:
                order += f" LIMIT {self.random.choice([1, 5, 20])}" + self.random.choice(["", " OFFSET 3"])
        return f"SELECT {distinct}{columns} FROM {self._source}{where}{tail}{order}"

    def _relation(self, columns: dict[str, list[str]]) -> _Relation | None:
        able = [relation for relation in self.relations if columns[relation.table]]
        return self.random.choice(able) if able else None

    def _integer(self) -> str:
        relation = self._relation(_INTEGERS)
        return (
            "1" if relation is None else f"{relation.alias}.{self.random.choice(_INTEGERS[relation.table])}"
        )

    def _text(self) -> str:
        relation = self._relation(_TEXTS)
        assert relation is not None
        return f"{relation.alias}.{self.random.choice(_TEXTS[relation.table])}"

    def _time(self) -> str | None:
        able = [relation.alias for relation in self.relations if relation.table in {"flights", "weather"}]
        return f"{self.random.choice(able)}.time_hour" if able else None

    def _scalar(self) -> str:
        integer, text, time = self._integer(), self._text(), self._time()
        options = [
            integer,
            text,
            f"{integer} + {self._integer()}",
            f"{integer} / 7",
            f"{integer} % 5",
            f"coalesce({text}, 'none')",
            f"upper({text})",
            f"length({text})",
            f"CASE WHEN {integer} > 100 THEN {text} END",
            f"{integer} * 1.5",
            f"nullif({integer}, 1)",
            f"{integer} IS NULL",
            f"{integer}::text",
            f"abs({integer} - 50)",
        ]
        if time:
            options += [time, f"date_trunc('month', {time})", f"extract(hour FROM {time})", f"{time}::date"]
        return self.random.choice(options)

    def _key(self) -> str:
        time = self._time()
        options = [
            self._text(),
            self._text(),
            f"{self._integer()} % 4",
            f"{self._integer()} > 60",
            f"left({self._text()}, 1)",
        ]
        if time:
            options += [f"date_trunc('month', {time})", f"extract(dow FROM {time})"]
        return self.random.choice(options)

    def _aggregate(self) -> str:
        integer, text, time = self._integer(), self._text(), self._time()
        options = [
            "count(*)",
            f"count({integer})",
            f"sum({integer})",
            f"avg({integer})",
            f"min({integer})",
            f"max({text})",
            f"min({text})",
            f"count(DISTINCT {text})",
            f"count(DISTINCT {integer})",
            f"sum({integer} * 1.25)",
            f"bool_or({integer} > 500)",
            f"bool_and({integer} > 0)",
            f"stddev({integer})",
            f"var_pop({integer})",
            f"sum({integer}) FILTER (WHERE {self._condition()})",
            f"count(*) FILTER (WHERE {self._condition()})",
            f"bit_or({integer})",
            f"string_agg(DISTINCT {text}, ',' ORDER BY {text})",
            f"sum({integer}) / nullif(count({integer}), 0)",
            f"max({integer}) - min({integer})",
            f"round(avg({integer}), 2)",
        ]
        if time:
            options += [f"min({time})", f"max({time})", f"max({time}) - min({time})"]
        return self.random.choice(options)

    def _condition(self) -> str:
        integer, text, time = self._integer(), self._text(), self._time()
        word, number = self.random.choice(_WORDS), self.random.choice([0, 1, 7, 30, 200, 1000, 5000, -3])
        options = [
            f"{integer} {self.random.choice(['<', '>', '=', '<>', '>=', '<='])} {number}",
            f"{text} {self.random.choice(['=', '<', '>=', '<>'])} '{word}'",
            f"{text} IN ('{word}', '{self.random.choice(_WORDS)}')",
            f"{integer} IS {self.random.choice(['', 'NOT '])}NULL",
            f"{text} LIKE '{word[:1]}%'",
            f"({integer} > {number} OR {text} = '{word}')",
            f"NOT ({integer} < {number} AND {text} <> '{word}')",
            f"{integer} BETWEEN {number} AND {number + 100}",
            f"{text} IN (SELECT faa FROM airports WHERE alt > 1000)",
            f"{integer} > (SELECT avg(month) FROM flights)",
            f"({integer} = {number}) IS NOT TRUE",
        ]
        if time:
            options += [
                f"{time} {self.random.choice(['<', '>=', '=', '>'])} '{self.random.choice(_TIMES)}'"
            ] * 2
        return self.random.choice(options)

    def _selective(self) -> str:
        return "t0.month = 3 AND t0.day = 10" if self.relations[0].table in {"flights", "weather"} else "true"
