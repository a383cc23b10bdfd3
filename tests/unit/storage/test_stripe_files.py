"""Writing, reading and damaging single stripe files."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orochi import errors, pgtypes
from orochi.planner import fragment
from orochi.storage.columnar import cache, reader, scan, writer
from orochi.storage.compression import habit

COLUMNS = [
    writer.StripeColumn("id", pgtypes.INT8),
    writer.StripeColumn("host", pgtypes.TEXT),
    writer.StripeColumn("usage", pgtypes.FLOAT8),
]


def batch(count: int = 25_000) -> pa.RecordBatch:
    numbers = np.arange(count)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(numbers),
            pa.array([f"host_{number % 7}" for number in range(count)]),
            pa.array(numbers % 101 / 4, mask=numbers % 10 == 0),
        ],
        ["id", "host", "usage"],
    )


@pytest.fixture
def stripe(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "one.stripe"
    writer.write_stripe(path, [batch()], COLUMNS)
    return path


def rows(path: pathlib.Path, *arguments: Any, **named: Any) -> pa.Table:
    with reader.StripeReader(path) as opened:
        return pa.Table.from_batches(list(opened.scan(*arguments, **named)))


def test_info_tells_what_the_catalog_keeps(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "one.stripe"
    info = writer.write_stripe(path, [batch()], COLUMNS)
    assert info.row_count == 25_000
    assert info.size_bytes == path.stat().st_size
    assert info.group_rows == (10_000, 10_000, 5_000)
    assert [(chunk.column, chunk.group) for chunk in info.chunks] == [
        (name, group) for name in ("id", "host", "usage") for group in range(3)
    ]
    second = info.chunks[1]
    assert (second.minimum_text, second.maximum_text) == ("10000", "19999")
    assert second.stats.total == sum(range(10_000, 20_000))
    assert info.chunks[6].stats.null_count == 1000
    assert info.raw_bytes > 10 * info.size_bytes
    with reader.StripeReader(path) as opened:
        assert opened.info() == info


def test_skip_list_and_row_numbers(stripe: pathlib.Path) -> None:
    wanted = [fragment.Predicate("id", ">=", (19_998,)), fragment.Predicate("id", "<", (20_001,))]
    with reader.StripeReader(stripe) as opened:
        (found,) = opened.scan(["host"], wanted, with_row_numbers=True)
        assert (opened.groups_total, opened.groups_skipped) == (3, 1)
    assert found.column("host").to_pylist() == ["host_6", "host_0", "host_1"]
    assert found.column(reader.ROW_NUMBER).type == pa.int32()
    assert found.column(reader.ROW_NUMBER).to_pylist() == [19_998, 19_999, 20_000]


def test_row_numbers_alone(stripe: pathlib.Path) -> None:
    assert rows(stripe, [], [], with_row_numbers=True).column(0).to_pylist() == list(range(25_000))
    with pytest.raises(errors.InvalidParameter):
        rows(stripe, [])


def test_columns_in_the_order_asked_for_and_twice(stripe: pathlib.Path) -> None:
    found = rows(stripe, ["usage", "id", "usage"])
    assert found.column_names == ["usage", "id", "usage"]
    assert found.column(0).equals(found.column(2))


def test_columns_the_stripe_lacks(stripe: pathlib.Path) -> None:
    added = fragment.OutputColumn("added", pgtypes.INT4, -1, "integer")
    default = {"region": pa.scalar("eu", pa.string())}
    found = rows(stripe, ["id", added, "region"], [fragment.Predicate("id", "<", (3,))], missing=default)
    assert found.to_pylist() == [{"id": n, "added": None, "region": "eu"} for n in range(3)]
    assert found.schema.field("added").type == pa.int32()


@pytest.mark.parametrize(
    ("predicate", "count"),
    [
        (fragment.Predicate("region", "=", ("eu",)), 25_000),
        (fragment.Predicate("region", "=", ("us",)), 0),
        (fragment.Predicate("added", "isnull"), 25_000),
        (fragment.Predicate("added", "notnull"), 0),
        (fragment.Predicate("added", "in", (1, 2)), 0),
        (fragment.Predicate("added", ">", (1,)), 0),
    ],
)
def test_predicates_see_defaults(stripe: pathlib.Path, predicate: fragment.Predicate, count: int) -> None:
    added = fragment.OutputColumn("added", pgtypes.INT4, -1, "integer")
    default = {"region": pa.scalar("eu", pa.string())}
    with reader.StripeReader(stripe) as opened:
        found = list(opened.scan(["id", added], [predicate], missing=default))
    assert sum(part.num_rows for part in found) == count


def test_never_overwrites_and_leaves_no_temporary(stripe: pathlib.Path) -> None:
    before = stripe.read_bytes()
    with pytest.raises(FileExistsError):
        writer.write_stripe(stripe, [batch(10)], COLUMNS)
    assert stripe.read_bytes() == before
    wrong = pa.RecordBatch.from_arrays([pa.array([1], pa.int32())] * 3, ["a", "b", "c"])
    with pytest.raises(errors.InvalidParameter):
        writer.write_stripe(stripe.with_name("two.stripe"), [wrong], COLUMNS)
    assert [path.name for path in stripe.parent.iterdir()] == ["one.stripe"]


def test_a_failed_write_publishes_nothing(tmp_path: pathlib.Path) -> None:
    options = writer.WriteOptions(codecs={"id": "delta"})
    object.__setattr__(options, "codecs", {"usage": "vanished"})
    with pytest.raises(errors.InvalidParameter):
        writer.write_stripe(tmp_path / "x.stripe", [batch(10)], COLUMNS, options)
    assert not list(tmp_path.iterdir())


def test_temporary_names() -> None:
    assert writer.is_temporary(".one.stripe.0f.tmp")
    assert not writer.is_temporary("one.stripe")


@pytest.mark.parametrize(
    "wrong",
    [
        {"compression": "gzip"},
        {"level": 0},
        {"stripe_row_limit": 0},
        {"chunk_group_row_limit": 200_000},
        {"codecs": {"id": "magic"}},
    ],
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidParameter):
        writer.WriteOptions(**wrong)


def test_too_many_rows(tmp_path: pathlib.Path) -> None:
    options = writer.WriteOptions(stripe_row_limit=100, chunk_group_row_limit=10)
    with pytest.raises(errors.InvalidParameter, match="101 rows"):
        writer.write_stripe(tmp_path / "x", [batch(101)], COLUMNS, options)
    table = pa.Table.from_batches([batch(250)])
    assert [piece.num_rows for piece in writer.slices(table, options)] == [100, 100, 50]


@pytest.mark.parametrize("compression", ["auto", "zstd", "lz4", "none"])
def test_compressions_and_forced_codecs(tmp_path: pathlib.Path, compression: str) -> None:
    path = tmp_path / "x.stripe"
    options = writer.WriteOptions(
        compression=compression, codecs={"id": "plain", "host": "rle", "usage": "gorilla"}
    )
    info = writer.write_stripe(path, [batch()], COLUMNS, options)
    codecs = {chunk.column: chunk.codec for chunk in info.chunks}
    assert codecs == {"id": "plain", "host": "plain", "usage": "gorilla"}
    blocks = {chunk.block for chunk in info.chunks}
    assert blocks <= {"none", "zstd", "lz4"} - ({"zstd"} if compression == "lz4" else set())
    assert blocks == {"none"} or compression != "none"
    assert rows(path, ["id", "host", "usage"]).equals(pa.Table.from_batches([batch()]))


def test_chunk_groups_are_cut_by_bytes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP_BYTES", 100_000)
    monkeypatch.setattr(scan, "SPAN_BYTES", 250_000)
    texts = pa.array([f"{number:05}" * 100 for number in range(2000)])
    path = tmp_path / "x.stripe"
    info = writer.write_stripe(
        path,
        [pa.RecordBatch.from_arrays([texts], ["t"])],
        [writer.StripeColumn("t", pgtypes.TEXT)],
    )
    assert max(chunk.raw_size for chunk in info.chunks) <= 100_000
    with reader.StripeReader(path) as opened:
        parts = list(opened.scan(["t"]))
    assert len(parts) > 3
    assert pa.concat_arrays([part.column(0) for part in parts]).equals(texts)


def test_a_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        reader.StripeReader(tmp_path / "none.stripe")


def test_a_foreign_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.stripe"
    path.write_bytes(b"PAR1" * 1000)
    with pytest.raises(errors.DataCorrupted) as caught:
        reader.verify(path)
    assert caught.value.sqlstate == "XX001"
    assert str(path) in caught.value.message


def test_cache_serves_repeated_and_narrower_scans(stripe: pathlib.Path) -> None:
    shared = cache.Cache(64 << 20)
    with reader.StripeReader(stripe, cache=shared) as opened:
        first = pa.Table.from_batches(list(opened.scan(["id", "host"])))
    stripe.write_bytes(stripe.read_bytes())  # same inode, another time: another file
    size = shared.size_bytes
    assert size > first.nbytes // 2
    with reader.StripeReader(stripe, cache=shared) as opened:
        assert pa.Table.from_batches(list(opened.scan(["id", "host"]))).equals(first)
        middle = list(opened.scan(["id"], [fragment.Predicate("id", "in", (10_000, 15_000))]))
    assert shared.size_bytes > size
    assert middle[0].column(0).to_pylist() == [10_000, 15_000]


def test_cache_is_bounded() -> None:
    small = cache.Cache(1000)
    small.put("large", 1, 251)
    assert small.get("large") is None
    for number in range(10):
        small.put(number, number, 200)
        small.get(0)
    assert small.size_bytes == 1000
    assert small.get(0) == 0
    assert small.get(5) is None
    small.put(9, "again", 100)
    assert (small.get(9), small.size_bytes) == ("again", 900)
    small.clear()
    assert (small.get(0), small.size_bytes) == (None, 0)


def test_reader_import_is_cheap() -> None:
    code = (
        "import sys, orochi.storage.columnar.reader; print('numba' in sys.modules, 'numexpr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("nulls", [0, 7])
@pytest.mark.parametrize("words", [3, 5_000])
def test_codes_are_written_as_their_strings(tmp_path: pathlib.Path, nulls: int, words: int) -> None:
    """With values of other stripes in the dictionary; chunk by chunk the same is known of them."""
    rng = np.random.default_rng(words)
    codes = pa.array(rng.integers(1, words, 25_000).astype(np.int32), mask=rng.random(25_000) * 100 < nulls)
    values = pa.array([f"{'z' * (n % 40)}{n}" for n in range(words + 20)])
    coded = pa.DictionaryArray.from_arrays(codes, values)
    columns = [writer.StripeColumn("name", pgtypes.TEXT)]
    infos = [
        writer.write_stripe(
            tmp_path / name, [pa.RecordBatch.from_arrays([array], ["name"])], columns, options, {}
        )
        for name, array, options in (
            ("coded", coded, writer.WriteOptions()),
            ("plain", coded.dictionary_decode(), writer.WriteOptions()),
            ("forced", coded, writer.WriteOptions(compression="plain")),
        )
    ]
    first, second, forced = infos
    assert [chunk.stats for chunk in first.chunks] == [chunk.stats for chunk in second.chunks]
    assert [chunk.stats for chunk in first.chunks] == [chunk.stats for chunk in forced.chunks]
    assert {chunk.codec for chunk in forced.chunks} == {"plain"}
    tables = [rows(tmp_path / name, ["name"]) for name in ("coded", "plain", "forced")]
    assert all(table.column(0).to_pylist() == coded.to_pylist() for table in tables)


def test_habits_that_do_not_fit_the_next_stripe_change_no_value(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(4)
    columns = [writer.StripeColumn("i", pgtypes.INT8), writer.StripeColumn("d", pgtypes.FLOAT8)]
    habits: dict[str, habit.Habit] = {}
    odd = np.array([0x7FF8000000000001, 0x7FF0000000000001, 1 << 63], np.uint64).view(np.float64)
    stripes = (
        (np.full(3000, 7), np.arange(3000) / 4),
        (np.arange(3000), rng.choice(odd, 3000)),
        (rng.integers(-(2**63), 2**63 - 1, 3000), rng.standard_normal(3000)),
        (np.full(3000, 7), np.zeros(3000)),
    )
    for number, (whole, double) in enumerate(stripes):
        batch = pa.RecordBatch.from_arrays([pa.array(whole), pa.array(double)], ["i", "d"])
        path = tmp_path / str(number)
        writer.write_stripe(path, [batch], columns, writer.WriteOptions(chunk_group_row_limit=1000), habits)
        read = rows(path, ["i", "d"])
        assert read.column("i").to_numpy().tolist() == whole.tolist()
        assert read.column("d").to_numpy().view(np.uint64).tolist() == double.view(np.uint64).tolist()


def test_a_stripe_of_few_rows_forms_no_habit(tmp_path: pathlib.Path) -> None:
    columns = [writer.StripeColumn("d", pgtypes.FLOAT8)]
    habits: dict[str, habit.Habit] = {}
    found = []
    rng = np.random.default_rng(5)
    for number, values in enumerate((rng.standard_normal(7), rng.integers(0, 10_000, 5000) / 100)):
        batch = pa.RecordBatch.from_arrays([pa.array(values)], ["d"])
        info = writer.write_stripe(tmp_path / str(number), [batch], columns, None, habits)
        found.append(info.chunks[0].codec)
    assert found[1] == "alp"
