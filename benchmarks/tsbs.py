"""TSBS's cpu-only workload: ten usages of each host every ten seconds, and its queries over them.

Usages are whole doubles, a random walk by N(0, 1) kept in 0..100, as TSBS's own generator writes them;
tags lie beside the usages in one table. Rows come in the order of time, then host. The same hosts,
steps and seed give the same rows.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

STEP_SECONDS = 10
START = dt.datetime(2016, 1, 1, tzinfo=dt.UTC)
_PIECE_ROWS = 100_000

METRICS = tuple(
    f"usage_{kind}"
    for kind in ("user", "system", "idle", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
)
TAGS = (
    "hostname",
    "region",
    "datacenter",
    "rack",
    "os",
    "arch",
    "team",
    "service",
    "service_version",
    "service_environment",
)
DDL = (
    "CREATE TABLE cpu (time timestamptz NOT NULL, "
    + ", ".join(f"{tag} text" for tag in TAGS)
    + ", "
    + ", ".join(f"{metric} double precision" for metric in METRICS)
    + ")"
)
INDEXES = ("CREATE INDEX ON cpu (hostname, time DESC)", "CREATE INDEX ON cpu (time DESC)")

_REGIONS = {
    "us-east-1": "abce",
    "us-west-1": "ab",
    "us-west-2": "abc",
    "eu-west-1": "abc",
    "eu-central-1": "ab",
    "ap-southeast-1": "ab",
    "ap-southeast-2": "ab",
    "ap-northeast-1": "ac",
    "sa-east-1": "abc",
}
_CHOICES = {
    "rack": [str(number) for number in range(100)],
    "os": ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"],
    "arch": ["x64", "x86"],
    "team": ["SF", "NYC", "LON", "CHI"],
    "service": [str(number) for number in range(20)],
    "service_version": ["0", "1"],
    "service_environment": ["production", "staging", "test"],
}


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How much there is: `hosts` hosts for `hours` hours, `hosts * hours * 360` rows."""

    hosts: int
    hours: int
    seed: int = 1

    @property
    def steps(self) -> int:
        return self.hours * 3600 // STEP_SECONDS

    @property
    def rows(self) -> int:
        return self.hosts * self.steps

    @property
    def end(self) -> dt.datetime:
        return START + dt.timedelta(hours=self.hours)


def batches(size: Size) -> Iterator[pa.RecordBatch]:
    """The rows, in pieces of whole steps."""
    rng = np.random.default_rng((size.seed, 0))
    tags = _tags(size, np.random.default_rng((size.seed, 1)))
    state = rng.random((size.hosts, len(METRICS))) * 100
    each = max(_PIECE_ROWS // size.hosts, 1)
    start = np.datetime64(START.replace(tzinfo=None), "us")
    for first in range(0, size.steps, each):
        count = min(each, size.steps - first)
        moves = rng.standard_normal((count, size.hosts, len(METRICS)))
        for step in range(count):
            state = moves[step] = np.clip(state + moves[step], 0, 100)
        values = np.floor(moves).reshape(count * size.hosts, len(METRICS))
        times = np.repeat(np.arange(first, first + count) * np.timedelta64(STEP_SECONDS, "s"), size.hosts)
        columns: dict[str, Any] = {"time": pa.array(start + times, pa.timestamp("us", "UTC"))}
        which = pa.array(np.tile(np.arange(size.hosts), count))
        columns |= {name: tags[name].take(which) for name in TAGS}
        columns |= {name: pa.array(values[:, n]) for n, name in enumerate(METRICS)}
        yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def csv_pieces(size: Size) -> Iterator[tuple[int, bytes]]:
    """The rows as CSV without a header, each piece with its count of rows."""
    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    for batch in batches(size):
        sink = io.BytesIO()
        csv.write_csv(batch, sink, options)
        yield batch.num_rows, sink.getvalue()


def _tags(size: Size, rng: np.random.Generator) -> dict[str, pa.Array]:
    regions = [list(_REGIONS)[n] for n in rng.integers(0, len(_REGIONS), size.hosts)]
    zones = [f"{region}{_REGIONS[region][rng.integers(0, len(_REGIONS[region]))]}" for region in regions]
    found = {"hostname": [f"host_{n}" for n in range(size.hosts)], "region": regions, "datacenter": zones}
    for name, words in _CHOICES.items():
        found[name] = [words[n] for n in rng.integers(0, len(words), size.hosts)]
    return {name: pa.array(values) for name, values in found.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Dialect:
    """How a system says two things: a bucket of `time`, and what lastpoint is read from."""

    bucket: Callable[[str], str]
    lastpoint: str = "SELECT DISTINCT ON (hostname) * FROM cpu ORDER BY hostname, time DESC"


POSTGRESQL = Dialect(lambda unit: f"date_trunc('{unit}', time)")
OROCHI = Dialect(lambda unit: f"time_bucket('1 {unit}', time)")
DUCKDB = Dialect(lambda unit: f"time_bucket(INTERVAL '1 {unit}', time)")


def queries(size: Size, dialect: Dialect, seed: int = 1) -> dict[str, str]:
    """TSBS's queries by name; hosts and windows are random, the same for every dialect."""
    rng = np.random.default_rng((size.seed, seed, 2))
    found: dict[str, str] = {}
    for metrics, hosts, hours in ((1, 1, 1), (1, 1, 12), (1, 8, 1), (5, 1, 1), (5, 1, 12), (5, 8, 1)):
        where = f"{_hosts(rng, size, hosts)} AND {_window(rng, size, hours)}"
        found[f"single-groupby-{metrics}-{hosts}-{hours}"] = (
            f"SELECT {dialect.bucket('minute')} AS minute, {_each('max', metrics)} FROM cpu "
            f"WHERE {where} GROUP BY minute ORDER BY minute"
        )
    for hosts in (1, 8):
        where = f"{_hosts(rng, size, hosts)} AND {_window(rng, size, 8)}"
        found[f"cpu-max-all-{hosts}"] = (
            f"SELECT {dialect.bucket('hour')} AS hour, {_each('max', 10)} FROM cpu "
            f"WHERE {where} GROUP BY hour ORDER BY hour"
        )
    for name, metrics in (("1", 1), ("5", 5), ("all", 10)):
        found[f"double-groupby-{name}"] = (
            f"SELECT {dialect.bucket('hour')} AS hour, hostname, {_each('avg', metrics)} FROM cpu "
            f"WHERE {_window(rng, size, 12)} GROUP BY hour, hostname ORDER BY hour, hostname"
        )
    window = _window(rng, size, 12)
    found["high-cpu-1"] = f"SELECT * FROM cpu WHERE usage_user > 90.0 AND {window} AND {_hosts(rng, size, 1)}"
    found["high-cpu-all"] = f"SELECT * FROM cpu WHERE usage_user > 90.0 AND {window}"
    found["lastpoint"] = dialect.lastpoint
    end = START + dt.timedelta(seconds=int(rng.integers(size.hours * 1800, size.hours * 3600)))
    found["groupby-orderby-limit"] = (
        f"SELECT {dialect.bucket('minute')} AS minute, max(usage_user) FROM cpu "
        f"WHERE time < '{end:%Y-%m-%d %H:%M:%S}+00' GROUP BY minute ORDER BY minute DESC LIMIT 5"
    )
    return found


def _each(function: str, metrics: int) -> str:
    return ", ".join(f"{function}({name}) AS {function}_{name}" for name in METRICS[:metrics])


def _hosts(rng: np.random.Generator, size: Size, count: int) -> str:
    chosen = rng.choice(size.hosts, min(count, size.hosts), replace=False).tolist()
    if len(chosen) == 1:
        return f"hostname = 'host_{chosen[0]}'"
    listed = ", ".join(f"'host_{n}'" for n in chosen)
    return f"hostname IN ({listed})"


def _window(rng: np.random.Generator, size: Size, hours: int) -> str:
    spare = max(size.hours - hours, 0) * 3600
    start = START + dt.timedelta(seconds=int(rng.integers(0, spare + 1)))
    end = min(start + dt.timedelta(hours=hours), size.end)
    return f"time >= '{start:%Y-%m-%d %H:%M:%S}+00' AND time < '{end:%Y-%m-%d %H:%M:%S}+00'"
