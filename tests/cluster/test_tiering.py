"""Chunks in every tier answer as plain tables do, can be written to, and leave nothing behind in the object store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import boto3
import psycopg
import pytest
from botocore import config as boto_config
from psycopg import conninfo

from orochi import errors
from orochi import settings as process_settings
from orochi.embedded import verification
from orochi.storage.objects import client
from orochi.tiered import move
from orochi.timeseries import orphans
from tests.support import cluster as clusters
from tests.support import layouts, oracle, pairs

_READS = (
    "SELECT count(*), sum(id), sum(amount), min(what), max(at) FROM events",
    "SELECT * FROM events WHERE id BETWEEN 20 AND 60 ORDER BY id",
    "SELECT what, count(*), avg(amount) FROM events GROUP BY what ORDER BY what",
    "SELECT tenant, max(at) FROM events WHERE at > '2024-03-10' GROUP BY tenant ORDER BY tenant",
    "SELECT e.id, f.id FROM events e JOIN events f ON f.tenant = e.tenant AND f.id = e.id + 7 ORDER BY 1",
)


@pytest.fixture
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    opened = pairs.opened(cluster, "tiers")
    opened.both("CREATE SCHEMA tiers")
    yield opened
    pairs.close(opened, "tiers")


def _events(pair: oracle.Pair, layout: str, days: int = 4) -> None:
    """The table `events`, filled, in few chunks: every move is a task."""
    pair.both(layouts.EVENTS)
    if layout == "hypertable":
        pair.both("ALTER TABLE events DROP CONSTRAINT events_pkey")
    if layout == "columnar":
        pair.orochi("ALTER TABLE events SET ACCESS METHOD columnar")
    else:
        pair.orochi(f"SELECT create_hypertable('events', 'at', INTERVAL '{days} days')")
    if layout != "hypertable":
        pair.orochi("SELECT create_distributed_table('events', 'tenant', 2)")
    pair.both(layouts.FILL)


def _move(pair: oracle.Pair, tier: str, chunk: str | None = None) -> None:
    """All chunks of `events`, or one, to a tier."""
    for (name,) in [(chunk,)] if chunk else pair.orochi("SELECT show_chunks('events')"):
        pair.orochi("SELECT move_chunk_to_tier(%s, %s)", (name, tier))


def _check(pair: oracle.Pair, reads: tuple[str, ...] = _READS) -> None:
    for sql in reads:
        pair.same(sql)


def _tiers(pair: oracle.Pair) -> set[str]:
    return {tier for (tier,) in pair.orochi("SELECT tier FROM orochi.chunks WHERE hypertable ~ 'events'")}


def _fails(pair: oracle.Pair, sql: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        pair.orochi(sql)
    return caught.value


@pytest.mark.parametrize("layout", ["hypertable", "both", "columnar"])
def test_a_chunk_in_every_tier(pair: oracle.Pair, layout: str) -> None:
    _events(pair, layout, days=60)
    tiers = ("cold", "warm", "frozen", "hot", "cold") if layout == "both" else ("frozen", "cold")
    for tier in tiers:
        _move(pair, tier)
        assert _tiers(pair) == {tier}
        if tier == "frozen":
            pair.orochi("SET orochi.frozen_reads = wait")
        _check(pair)
    pair.both(
        "INSERT INTO events (tenant, at, id, what) SELECT g % 7, timestamptz '2024-03-10' + g * interval '1 h', g, 'new'"
        " FROM generate_series(1000, 1010) g",
        "UPDATE events SET what = 'changed', amount = amount + 1 WHERE id BETWEEN 30 AND 40",
        "DELETE FROM events WHERE id BETWEEN 50 AND 55",
    )
    _check(pair)
    with pair.gateway.transaction(), pair.plain.transaction():
        pair.both("UPDATE events SET what = 'again' WHERE id = 70")
        _check(pair)
    if layout == "hypertable":  # a large load becomes stripes of the chunk at once, on the node
        pair.orochi("ALTER TABLE events SET (orochi.compress = true)")
        rows = "".join(f"{n % 7}\t2024-03-10 00:00:00+00\t{n}\tloaded\n" for n in range(2000, 22000))
        pair.copy_in("COPY events (tenant, at, id, what) FROM STDIN", rows.encode())
        pair.same(_READS[0])
    _move(pair, "cold")
    assert _tiers(pair) == {"cold"}
    assert not pair.orochi(
        "SELECT path FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks c USING (chunk_id)"
        " JOIN orochi.orochi_shards s USING (shard_id)"
        " WHERE s.table_oid = 'events'::regclass AND path NOT LIKE 's3:%'"
    )
    _check(pair, _READS[:3])
    pair.both("ALTER TABLE events ADD COLUMN extra integer")
    if layout == "both":
        first = pair.orochi("SELECT show_chunks('events')")[0][0]
        pair.orochi("SELECT recompress_chunk(%s)", (first,))
        pair.orochi("SELECT decompress_chunk(%s)", (first,))
        assert "hot" in _tiers(pair)
    pair.same("SELECT * FROM events ORDER BY id")
    if layout == "columnar":
        pair.orochi("SELECT undistribute_table('events')")
        pair.same("SELECT * FROM events ORDER BY id")


def test_frozen_reads_and_what_is_refused(pair: oracle.Pair) -> None:
    _events(pair, "both")
    _move(pair, "warm")
    (frozen,) = pair.orochi(
        "SELECT chunk_name FROM orochi.chunks WHERE hypertable ~ 'events' AND row_count > 0 ORDER BY range_start, 1 LIMIT 1"
    )[0]
    _move(pair, "frozen", frozen)
    told: list[str] = []
    pair.gateway.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    for sql in (
        "SELECT count(*) FROM events",
        "UPDATE events SET what = 'x'",
        f"SELECT decompress_chunk('{frozen}')",
    ):
        error = _fails(pair, sql)
        assert error.sqlstate == "55000"
        assert f"move_chunk_to_tier('{frozen}', 'cold')" in (error.diag.message_hint or "")
    pair.same("SELECT count(*) FROM events WHERE at > '2024-03-12'")
    pair.orochi("SET orochi.frozen_reads = skip")
    (count,) = pair.orochi("SELECT count(*) FROM events")[0]
    assert 0 < count < 200
    assert any(frozen in text for text in told)
    pair.orochi("SET orochi.frozen_reads = wait")
    _check(pair)
    assert _fails(pair, "SET orochi.frozen_reads = never; SELECT count(*) FROM events").sqlstate == "22023"
    assert _fails(pair, f"SELECT move_chunk_to_tier('{frozen}', 'icy')").sqlstate == "22023"
    assert _fails(pair, "SELECT move_chunk_to_tier('chunk_999999', 'cold')").sqlstate == "42704"
    _move(pair, "cold", frozen)
    _check(pair)


def test_a_cold_aggregate_reads_only_its_column(pair: oracle.Pair) -> None:
    columns = ", ".join(f"random() AS c{n}" for n in range(9))
    pair.orochi(
        "CREATE TABLE wide AS SELECT timestamptz '2024-01-01' + n * interval '1 s' AS at, "
        f"{columns} FROM generate_series(1, 30000) n"
    )
    pair.orochi("SELECT create_hypertable('wide', 'at')")
    for (chunk,) in pair.orochi("SELECT show_chunks('wide')"):
        pair.orochi("SELECT move_chunk_to_tier(%s, 'cold')", (chunk,))
    (size,) = pair.orochi(
        "SELECT sum(f.size_bytes) FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks c USING (chunk_id)"
        " JOIN orochi.orochi_shards s USING (shard_id) WHERE s.table_oid = 'wide'::regclass"
    )[0]
    first, second = (_explained(pair, "SELECT sum(c4) FROM wide") for _ in range(2))
    assert re.search(r"\(1 cold\)", first)
    fetched = re.search(r"S3 requests=(\d+) bytes=(\d+)", first)
    assert fetched is not None
    assert int(fetched[2]) <= 15 * size / 100
    assert "S3 requests" not in second


def _explained(pair: oracle.Pair, sql: str) -> str:
    return "\n".join(line for (line,) in pair.orochi(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}"))


def test_a_policy_moves_chunks_as_they_age(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TABLE life (at timestamptz NOT NULL, id int, v float8)",
    )
    pair.orochi("SELECT create_hypertable('life', 'at', INTERVAL '10 days')")
    ((day,),) = pair.orochi("SELECT date_trunc('day', now())::text")
    today = f"timestamptz '{day}'"
    pair.both(
        f"INSERT INTO life SELECT {today} - n * interval '3 hours', n, n / 7.0 FROM generate_series(1, 480) n"
    )
    database = pair.orochi("SELECT current_database()")[0][0]
    pair.orochi(f"ALTER DATABASE {database} SET orochi.enable_tiering = off")
    policy = "SELECT set_tiering_policy('life', '15 days', '30 days', '45 days', adaptive => {}, recall_reads => 4)"
    (job,) = pair.orochi(policy.format("false"))[0]
    assert pair.orochi("SELECT job_id, cold_after FROM orochi.tiering_policies WHERE relation ~ 'life'") == [
        (job, "45 days")
    ]
    pair.orochi("SELECT run_maintenance()")
    assert pair.orochi("SELECT count(*) FROM orochi.tiering_decisions WHERE relation ~ 'life'") == [(0,)]
    pair.orochi(f"ALTER DATABASE {database} RESET orochi.enable_tiering")
    pair.orochi(f"CALL run_job({job})")
    wrong = (
        "SELECT chunk_name, tier, range_end FROM orochi.chunks WHERE hypertable ~ 'life' AND tier <> CASE"
        " WHEN range_end <= now() - interval '45 days' THEN 'frozen' WHEN range_end <= now() - interval '30 days'"
        " THEN 'cold' WHEN range_end <= now() - interval '15 days' THEN 'warm' ELSE 'hot' END"
    )
    assert pair.orochi(wrong) == []
    decided = "SELECT to_tier, reason, outcome FROM orochi.tiering_decisions WHERE relation ~ 'life' ORDER BY decision_id"
    first = pair.orochi(decided)
    assert {tier for tier, _, _ in first} == {"warm", "cold", "frozen"}
    assert {outcome for _, _, outcome in first} == {"moved"}
    pair.orochi("SET orochi.frozen_reads = wait")
    sums = "SELECT count(*), sum(id), sum(v) FROM life"
    pair.same(sums)
    newest = "SELECT max(range_start)::text FROM orochi.chunks WHERE hypertable ~ 'life' AND tier = 'cold'"
    ((start,),) = pair.orochi(newest)  # which days it has depends on today's date
    cold = (
        f"at BETWEEN timestamptz '{start}' + interval '2 days' AND timestamptz '{start}' + interval '4 days'"
    )
    pair.both(f"UPDATE life SET v = 1 WHERE {cold}")
    pair.orochi("SELECT run_maintenance()")
    later = pair.orochi(decided)[len(first) :]
    assert all(reason.startswith("rows came since") for _, reason, _ in later)
    pair.same(sums)

    pair.orochi(policy.format("true"))

    def came_back() -> bool:
        for _ in range(4):
            pair.orochi(f"SELECT count(*) FROM life WHERE {cold}")
        pair.orochi("SELECT run_maintenance()")
        return any("recall" in reason for _, reason, _ in pair.orochi(decided))

    clusters.eventually(came_back, pause=1.1)
    pair.same(sums)
    assert pair.orochi("SELECT max(last_read_at) IS NOT NULL FROM orochi.chunks WHERE hypertable ~ 'life'")[
        0
    ][0]
    pair.orochi("SELECT remove_tiering_policy('life')")
    assert _fails(pair, "SELECT remove_tiering_policy('life')").sqlstate == "42704"
    assert _fails(pair, "SELECT set_tiering_policy('life', '9 days', '8 days')").sqlstate == "22023"


def test_the_store_holds_what_the_catalog_names(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    _events(pair, "both")
    _move(pair, "cold")
    _move(pair, "cold")
    known = "SELECT substr(path, 4) FROM orochi.{} WHERE path LIKE 's3:%'"
    named = {key for (key,) in pair.orochi(known.format("orochi_stripes"))}
    assert named
    assert named <= _keys(cluster)
    report = verification.verify(cluster.data_dir, None, quick=True)
    assert report.findings == []
    assert report.stripes >= len(named)
    with cluster.connect_coordinator() as catalog:

        def exact() -> bool:
            catalog.execute(
                "UPDATE orochi.orochi_cleanup SET not_before = now() WHERE path ~ '^(s3|frozen):'"
            )
            pair.orochi("SELECT run_maintenance()")
            left = {key for (key,) in catalog.execute(known.format("orochi_stripes").encode())}
            return _keys(cluster) == left

        clusters.eventually(exact)
        gone = pair.orochi("SELECT drop_chunks('events', older_than => timestamptz '2024-03-12')")
        assert gone
        clusters.eventually(exact)
        pair.both("DROP TABLE events")
        clusters.eventually(exact)


def _keys(cluster: clusters.Cluster) -> set[str]:
    store: Any = cluster.info["s3"]
    client = boto3.client(
        "s3",
        endpoint_url=store["endpoint"],
        region_name="us-east-1",
        aws_access_key_id=store["access_key"],
        aws_secret_access_key=store["secret_key"],
        config=boto_config.Config(s3={"addressing_style": "path"}),
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=store["bucket"])
    return {item["Key"] for page in pages for item in page.get("Contents", ())}


class _Crash(BaseException):
    """What a process that is killed leaves undone."""


_STEPS = {
    "cold": ("gathered", "copied", "repointed", "labelled"),
    "warm": ("copied", "repointed"),
    "frozen": ("copied", "repointed"),
    "hot": ("repointed", "heap"),
}


def test_a_move_that_dies_at_any_step_leaves_the_chunk_whole(
    cluster: clusters.Cluster, pair: oracle.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    _events(pair, "hypertable")
    chunk, node, *_ = pair.orochi(
        "SELECT chunk_id, node_id FROM orochi.chunks WHERE hypertable ~ 'events' ORDER BY range_start LIMIT 1"
    )[0]
    settings = _settings(cluster, node, monkeypatch)
    store = client.shared()

    def moved(tier: str, until: str | None = None) -> None:
        def reached(step: str) -> None:
            if step == until:
                raise _Crash

        try:
            move.move_chunk(settings.coordinator_dsn, chunk, tier, settings, reached)
        except _Crash:
            return
        assert until is None

    for tier, steps in _STEPS.items():
        for step in steps:
            moved(tier, step)
            pair.orochi("SET orochi.frozen_reads = wait")
            _check(pair, _READS[:2])
            if step == "copied" and tier != "warm":  # the copies that nobody names are swept
                with psycopg.connect(settings.coordinator_dsn, autocommit=True) as catalog:
                    assert orphans.sweep_objects(catalog, _first(catalog), settings) >= 1
        moved(tier)
        moved(tier)
        assert pair.orochi("SELECT tier FROM orochi.chunks WHERE chunk_id = %s", (chunk,)) == [(tier,)]
        _check(pair)
    # an error that is no crash takes back what it did
    keys = {item.key for item in store.listed("orochi/")}
    monkeypatch.setattr(client.Store, "head", _different)
    with pytest.raises(errors.OrochiError, match="other bytes"):
        moved("cold")
    assert {item.key for item in store.listed("orochi/")} == keys
    _check(pair)


def _different(self: client.Store, key: str) -> client.Head:
    return client.Head(1, "", "STANDARD")


def _first(catalog: psycopg.Connection[Any]) -> int:
    row = catalog.execute("SELECT min(node_id) FROM orochi.orochi_nodes WHERE state <> 'down'").fetchone()
    assert row is not None
    return int(row[0])


def _settings(
    cluster: clusters.Cluster, node: int, monkeypatch: pytest.MonkeyPatch
) -> process_settings.Settings:
    """Those of a node's maintenance worker, for its work in this process; nothing it leaves is young."""
    store: Any = cluster.info["s3"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store["access_key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store["secret_key"])
    password = conninfo.conninfo_to_dict(cluster.coordinator_dsn)["password"]
    made = process_settings.Settings(
        coordinator_dsn=cluster.coordinator_dsn,
        node_user="orochi",
        node_password=password,  # type: ignore[arg-type]
        data_dir=cluster.data_dir / f"node{node}",
        s3_endpoint=store["endpoint"],
        s3_bucket=store["bucket"],
        orphan_grace=0.0,
    )
    monkeypatch.setattr(process_settings, "get", lambda: made)
    client._shared.cache_clear()
    return made
