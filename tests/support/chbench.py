"""A small CH-benCHmark: TPC-C's tables with nation, region and supplier, and 22 analytical queries over them.

The rows are reproducible and few; the queries are the benchmark's in shape, with dates, patterns and
names that these rows match, and with sort keys that leave no ties.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator

from tests.support import layouts, oracle

DDL = {
    "warehouse": "w_id int NOT NULL, w_name varchar(10), w_state char(2), w_tax numeric(4,4), w_ytd numeric(12,2),"
    " PRIMARY KEY (w_id)",
    "district": "d_id int NOT NULL, d_w_id int NOT NULL, d_name varchar(10), d_tax numeric(4,4), d_ytd numeric(12,2),"
    " d_next_o_id int, PRIMARY KEY (d_w_id, d_id)",
    "customer": "c_id int NOT NULL, c_d_id int NOT NULL, c_w_id int NOT NULL, c_first varchar(16), c_last varchar(16),"
    " c_city varchar(20), c_state char(2), c_phone char(16), c_since timestamp, c_discount numeric(4,4),"
    " c_balance numeric(12,2), c_data text, PRIMARY KEY (c_w_id, c_d_id, c_id)",
    "history": "h_c_id int, h_c_d_id int, h_c_w_id int, h_d_id int, h_w_id int, h_date timestamp, h_amount numeric(6,2)",
    "new_order": "no_o_id int NOT NULL, no_d_id int NOT NULL, no_w_id int NOT NULL, PRIMARY KEY (no_w_id, no_d_id, no_o_id)",
    "orders": "o_id int NOT NULL, o_d_id int NOT NULL, o_w_id int NOT NULL, o_c_id int, o_entry_d timestamp,"
    " o_carrier_id int, o_ol_cnt int, o_all_local int, PRIMARY KEY (o_w_id, o_d_id, o_id)",
    "order_line": "ol_o_id int NOT NULL, ol_d_id int NOT NULL, ol_w_id int NOT NULL, ol_number int NOT NULL, ol_i_id int,"
    " ol_supply_w_id int, ol_delivery_d timestamp, ol_quantity int, ol_amount numeric(6,2), ol_dist_info char(24),"
    " PRIMARY KEY (ol_w_id, ol_d_id, ol_o_id, ol_number)",
    "item": "i_id int NOT NULL, i_im_id int, i_name varchar(24), i_price numeric(5,2), i_data varchar(50), PRIMARY KEY (i_id)",
    "stock": "s_i_id int NOT NULL, s_w_id int NOT NULL, s_quantity int, s_ytd int, s_order_cnt int, s_remote_cnt int,"
    " s_data varchar(50), PRIMARY KEY (s_w_id, s_i_id)",
    "supplier": "su_suppkey int NOT NULL, su_name char(25), su_address varchar(40), su_nationkey int, su_phone char(15),"
    " su_acctbal numeric(12,2), su_comment varchar(101), PRIMARY KEY (su_suppkey)",
    "nation": "n_nationkey int NOT NULL, n_name char(25), n_regionkey int, PRIMARY KEY (n_nationkey)",
    "region": "r_regionkey int NOT NULL, r_name char(55), PRIMARY KEY (r_regionkey)",
}  # fmt: skip
#: What the tables of a warehouse are distributed by; the others are reference tables.
KEYS = {
    "warehouse": "w_id", "district": "d_w_id", "customer": "c_w_id", "history": "h_w_id", "new_order": "no_w_id",
    "orders": "o_w_id", "order_line": "ol_w_id", "stock": "s_w_id",
}  # fmt: skip
_COLUMNAR = ("customer", "orders", "order_line", "stock")
_LETTERS = "ABCDEFGHJKabcdefgh01234567"
_COUNTRIES = ("Germany", "Cambodia", "Peru", "Kenya", "France", "Japan")
_WAREHOUSES, _DISTRICTS, _CUSTOMERS, _ORDERS, _ITEMS = 5, 2, 30, 50, 120
_START = dt.datetime.fromisoformat("2007-01-01")


def rows() -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    """Each table's name and rows."""
    chance = random.Random(22)
    homes = range(1, _WAREHOUSES + 1)
    districts = [(w, d) for w in homes for d in range(1, _DISTRICTS + 1)]
    yield "warehouse", [(w, f"house {w}", "AB", f"0.0{w}", w * 1000) for w in homes]
    yield "district", [(d, w, f"part {d}", "0.01", 10 * d, _ORDERS + 1) for w, d in districts]
    yield "customer", [_customer(c, d, w, chance) for w, d in districts for c in range(1, _CUSTOMERS + 1)]
    yield "history", [(c, d, w, d, w, _START, c) for w, d in districts for c in range(1, 9)]
    yield "new_order", [(o, d, w) for w, d in districts for o in range(_ORDERS - 15, _ORDERS + 1)]
    orders, lines = [], []
    for w, d in districts:
        for o in range(1, _ORDERS + 1):
            entered = _START + dt.timedelta(days=chance.randrange(900), seconds=chance.randrange(86400))
            carrier = chance.choice(["\\N", *range(1, 11)])
            own = [_line(o, d, w, n, entered, chance) for n in range(1, chance.randint(2, 9))]
            orders.append((o, d, w, chance.randint(1, _CUSTOMERS - 6), entered, carrier, len(own), 1))
            lines += own
    yield "orders", orders
    yield "order_line", lines
    yield "item", [_item(i, chance) for i in range(1, _ITEMS + 1)]
    yield (
        "stock",
        [
            (i, w, chance.randint(5, 100), i, chance.randint(0, 40), 0, f"stock {i}")
            for w in homes
            for i in range(1, _ITEMS + 1)
        ],
    )
    yield "supplier", [_supplier(s, chance) for s in range(_WAREHOUSES * _ITEMS + 1)]
    names = [*_COUNTRIES, *(f"Nation {letter}" for letter in _LETTERS[len(_COUNTRIES) :])]
    yield "nation", [(ord(c), names[at], at % 3) for at, c in enumerate(_LETTERS)]
    yield "region", [(0, "Europe"), (1, "Asia"), (2, "Africa")]


def _customer(c: int, d: int, w: int, chance: random.Random) -> tuple[object, ...]:
    state = chance.choice(_LETTERS) + chance.choice(_LETTERS)
    balance = f"{chance.uniform(-50, 500):.2f}"
    phone = f"{chance.randrange(10)}{chance.randrange(10**8)}"
    return (
        c,
        d,
        w,
        f"first {c}",
        f"last {c % 7}",
        f"city {c % 5}",
        state,
        phone,
        _START,
        "0.1",
        balance,
        "data",
    )


def _line(o: int, d: int, w: int, n: int, entered: dt.datetime, chance: random.Random) -> tuple[object, ...]:
    supplied = w if chance.random() < 0.9 else chance.randint(1, _WAREHOUSES)
    delivered = "\\N" if chance.random() < 0.1 else entered + dt.timedelta(days=chance.randint(-1, 9))
    amount = f"{chance.uniform(0.01, 999):.2f}"
    item = chance.randint(1, _ITEMS)
    return (o, d, w, n, item, supplied, delivered, chance.randint(1, 20), amount, "info")


def _item(i: int, chance: random.Random) -> tuple[object, ...]:
    data = chance.choice(("PR", "co", "zz", "ab")) + f"{i:03d}" + chance.choice(("a", "b", "c", "BB"))
    return (i, i * 3, f"item {i}", f"{chance.uniform(1, 100):.2f}", data)


def _supplier(s: int, chance: random.Random) -> tuple[object, ...]:
    comment = "a bad one" if s % 11 == 0 else "fine"
    nation = ord(chance.choice(_LETTERS))
    return (s, f"Supplier {s:05d}", f"street {s}", nation, f"{s:09d}", f"{s}.50", comment)


def load(pair: oracle.Pair, *, columnar: bool) -> None:
    """Make and fill the tables on both sides; `columnar` keeps the four large ones in stripes."""
    for name, columns in DDL.items():
        pair.both(f"CREATE TABLE {name} ({columns})")
        if name in KEYS:
            pair.orochi("SELECT create_distributed_table(%s, %s, 4)", (name, KEYS[name]))
        else:
            pair.orochi("SELECT create_reference_table(%s)", (name,))
    for name, made in rows():
        text = "\n".join("\t".join(map(str, row)) for row in made) + "\n"
        pair.copy_in(f"COPY {name} FROM STDIN", text.encode())
        if columnar and name in _COLUMNAR:
            pair.orochi(f"ALTER TABLE {name} SET ACCESS METHOD columnar")
    for name in _COLUMNAR if columnar else ():
        layouts.compress(pair, name, "columnar")
    for name in DDL:
        pair.plain.execute(f"ANALYZE {name}")
