"""Statements by PostgreSQL's grammar, faithful printing, and changes in the statement's own text."""

from __future__ import annotations

from concurrent import futures

import pytest

from orochi import errors
from orochi.planner import edit, parse, tree
from orochi.planner.parse import Kind
from orochi.planner.tree import ast


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("select 1", Kind.SELECT),
        ("table t", Kind.SELECT),
        ("values (1)", Kind.SELECT),
        ("with x as (select 1) select * from x", Kind.SELECT),
        ("select 1 into t", Kind.CREATE_TABLE_AS),
        ("create table t as select 1", Kind.CREATE_TABLE_AS),
        ("create materialized view v as select 1", Kind.CREATE_TABLE_AS),
        ("insert into t values (1)", Kind.INSERT),
        ("merge into t using s on true when matched then delete", Kind.MERGE),
        ("copy t from stdin", Kind.COPY),
        ("truncate t, s", Kind.TRUNCATE),
        ("select create_distributed_table('t', 'id')", Kind.CALL),
        ("select * from orochi.create_hypertable('t', 'ts')", Kind.CALL),
        ("select other.create_hypertable('t', 'ts')", Kind.SELECT),
        ("explain analyze select 1", Kind.EXPLAIN),
        ("prepare p as select 1", Kind.PREPARE),
        ("execute p(1)", Kind.EXECUTE),
        ("deallocate all", Kind.DEALLOCATE),
        ("declare c cursor for select 1", Kind.DECLARE),
        ("fetch 3 from c", Kind.FETCH),
        ("close c", Kind.CLOSE),
        ("begin", Kind.TRANSACTION),
        ("savepoint s", Kind.TRANSACTION),
        ("set local x.y to 'z'", Kind.SET),
        ("alter table t add c int", Kind.DDL),
        ("drop table t", Kind.DDL),
        ("create index on t (a)", Kind.DDL),
        ("comment on table t is 'x'", Kind.DDL),
        ("grant select on t to public", Kind.DDL),
        ("vacuum t", Kind.OTHER),
        ("listen x", Kind.OTHER),
    ],
)
def test_kind(sql: str, kind: Kind) -> None:
    assert parse.parse_one(sql).kind is kind


def test_each_statement_has_its_own_text() -> None:
    found = parse.parse("select 'é;' ; ;\n insert into t values ($1) -- ; no\n; commit;")
    assert [item.sql for item in found] == ["select 'é;'", "insert into t values ($1) -- ; no", "commit"]
    assert parse.parse("-- nothing") == ()
    assert parse.parse("") == ()


@pytest.mark.parametrize(
    ("sql", "message", "position"),
    [
        ("selec 1", 'syntax error at or near "selec"', "1"),
        ("select 1 from", "syntax error at end of input", "14"),
        ("select 'é' frm t x", 'syntax error at or near "t"', "16"),
        ("select 'abc", 'unterminated quoted string at or near "\'abc"', "8"),
    ],
)
def test_syntax_errors_are_postgresqls(sql: str, message: str, position: str) -> None:
    with pytest.raises(errors.RemoteError) as caught:
        parse.parse(sql)
    assert (caught.value.sqlstate, caught.value.message) == ("42601", message)
    assert caught.value.fields["P"] == position


@pytest.mark.parametrize(
    ("sql", "inner"),
    [
        ("explain (analyze, costs off) select * from t", "select * from t"),
        ("explain analyze verbose select 1", "select 1"),
        ("explain (select 1)", "(select 1)"),
        ("prepare p (int, text) as update t set a = $1", "update t set a = $1"),
        ("declare c scroll cursor with hold for select 'for'", "select 'for'"),
        ("copy (select a from t) to stdout with (format csv)", "select a from t"),
        ("create table x (a) as select 1 as b", "select 1 as b"),
        ("create table x as select 1 with no data", "SELECT 1"),
    ],
)
def test_inner(sql: str, inner: str) -> None:
    assert parse.inner(parse.parse_one(sql)).sql == inner


FAITHFUL = [
    "select a operator(pg_catalog.+) b, a operator(public.<->) b, @ a, a !~* 'x', -(-a), a - -5, (2 ^ 3) ^ 2",
    "select cast(a as numeric(10,2)), b::bit(3), '1'::interval day to second(3), interval '1' year, a::int[][]",
    "select E'a\\nb\\\\', 'it''s', U&'\\00e9', $x$dollar$x$, B'101', X'1F', 1e10, .5, 1_000, 0x1F, -5::int, (-5)::int",
    "select array[[1,2],[3,4]], a[1], a[1:2], a[:2], (a.b).c, (a).b[1], row(1,2), (1,2), row(1), (t).*",
    "select sum(a) over (partition by b order by c rows between 2 preceding and 1 following exclude ties) from t",
    "select sum(a) over w from t window w as (order by q desc nulls last range between unbounded preceding and current row)",
    "select a, count(*) from t group by distinct grouping sets ((a), (a,b), ()), rollup(a,(b,c)), cube(d,e)",
    "select count(*) filter (where x), string_agg(distinct a, ',' order by a), mode() within group (order by y) from t",
    "select * from t, lateral (select 1 where t.a = 1) x(y), unnest(a, b) with ordinality u(c, d, n)",
    'select a collate "C" from t order by a collate pg_catalog."de_DE" desc nulls first',
    "select json_object('a': 1), json_array(1,2), json_arrayagg(a order by b), x is json object, json_value(a, '$.x')",
    "select extract(year from x), substring(a from 2 for 3), trim(leading 'x' from a), x at time zone 'utc', x at local",
    "select case a when 1 then 2 else 3 end, coalesce(a,b), nullif(a,b), a is distinct from b, a between symmetric 1 and 2",
    "select a like 'x' escape '!', a similar to 'x', a not in (1,2), a <> all(b), a is not unknown, (a, b) < (c, d)",
    "select exists (select 1), a in (select 1), a > any (select 1), array(select 1), (a,b) in (select 1,2)",
    'select "Quoted"."weird ""name", "select", "é".x, "$a" from "Weird Schema"."Tab" as "T" ("C")',
    "with recursive a(x) as materialized (select 1 union all select x+1 from a) select * from a",
    "select distinct on (a, b) a from t order by a, b using > limit 5 offset 3",
    "select 1 union all (select 2 except select 3 order by 1 limit 2) intersect select 4 order by 1 fetch first 3 rows with ties",
    "select * from a join b using (x) as u left join c on a.y = c.y natural full join d cross join only s.e",
    "select f(variadic array[1]), f(a => 1), not (a and b) or c, current_date, localtime(2), current_user",
]


@pytest.mark.parametrize("sql", FAITHFUL)
def test_printed_statements_mean_the_same(sql: str) -> None:
    node = parse.parse_one(sql).tree
    assert parse.parse_one(parse.deparse(node)).tree == node


def test_what_cannot_be_printed_is_refused() -> None:
    broken = tree.changed(parse.parse_one("select 1").tree, whereClause=ast.ResTarget(name="x"))
    with pytest.raises(parse.CannotDeparse):
        parse.deparse(broken)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ('select * from only ( "É" ) t, x', "select * from R t, x"),
        ("select * from only s.t where a", "select * from R where a"),
        ("select * from a . b * join c on true", "select * from R join c on true"),
        ("select * from U&\"d!0061t\" UESCAPE '!' as x", "select * from R as x"),
        ("select 'from t' -- from t\n from t", "select 'from t' -- from t\n from R"),
    ],
)
def test_relations_are_replaced_in_place(sql: str, expected: str) -> None:
    statement = parse.parse_one(sql)
    relation = next(node for node in tree.walk(statement.tree) if isinstance(node, ast.RangeVar))
    editor = edit.Editor(statement)
    editor.relation(relation, "R")
    assert editor.result() == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select now ( ) - interval '1 day'", "select V - interval '1 day'"),
        ("select pg_catalog.now()", "select V"),
        ("select current_timestamp(3) , 1", "select V , 1"),
        ("select current_date+1", "select V+1"),
        ("select current_setting(concat('a', '(b'), true)", "select V"),
    ],
)
def test_calls_are_replaced_whole(sql: str, expected: str) -> None:
    statement = parse.parse_one(sql)
    call = next(
        node for node in tree.walk(statement.tree) if isinstance(node, (ast.FuncCall, ast.SQLValueFunction))
    )
    editor = edit.Editor(statement)
    editor.call(call, "V")
    assert editor.result() == expected


def test_a_tree_is_printed_by_several_threads() -> None:
    """Trees of texts that came before are shared."""
    parts = " UNION ALL ".join(
        f"SELECT a + {n} AS b FROM t WHERE (a, {n}) IN (SELECT 1, c) OR NOT d" for n in range(60)
    )
    tree = parse.parse_one(parts).tree
    with futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: parse.deparse(tree), range(12)))
    assert set(found) == {parse.deparse(tree)}


@pytest.mark.parametrize("sql", FAITHFUL)
def test_the_parser_gives_nodes_what_pglast_would_make_of_it(sql: str) -> None:
    """So nothing is checked while they are made."""
    for node in tree.walk(parse.parse_one(sql).tree):
        copied = tree.changed(node)
        for name in node:
            value = getattr(node, name)
            tree.checked_set(copied, name, value)
            assert getattr(copied, name) == value
            assert type(getattr(copied, name)) is type(value)
