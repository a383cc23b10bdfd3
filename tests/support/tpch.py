"""A small TPC-H: its eight tables filled with reproducible rows, and its 22 queries.

The rows follow the benchmark's shapes (keys, value lists, date ranges, the few words that queries
look for), not its exact numbers. The queries are the benchmark's, with its validation parameters
where rows this few match them.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator

from tests.support import layouts, oracle

DDL = {
    "region": "r_regionkey integer PRIMARY KEY, r_name char(25) NOT NULL, r_comment varchar(152)",
    "nation": "n_nationkey integer PRIMARY KEY, n_name char(25) NOT NULL, n_regionkey integer NOT NULL,"
    " n_comment varchar(152)",
    "supplier": "s_suppkey integer PRIMARY KEY, s_name char(25) NOT NULL, s_address varchar(40) NOT NULL,"
    " s_nationkey integer NOT NULL, s_phone char(15) NOT NULL, s_acctbal numeric(15,2) NOT NULL,"
    " s_comment varchar(101) NOT NULL",
    "customer": "c_custkey integer PRIMARY KEY, c_name varchar(25) NOT NULL, c_address varchar(40) NOT NULL,"
    " c_nationkey integer NOT NULL, c_phone char(15) NOT NULL, c_acctbal numeric(15,2) NOT NULL,"
    " c_mktsegment char(10) NOT NULL, c_comment varchar(117) NOT NULL",
    "part": "p_partkey integer PRIMARY KEY, p_name varchar(55) NOT NULL, p_mfgr char(25) NOT NULL,"
    " p_brand char(10) NOT NULL, p_type varchar(25) NOT NULL, p_size integer NOT NULL,"
    " p_container char(10) NOT NULL, p_retailprice numeric(15,2) NOT NULL, p_comment varchar(23) NOT NULL",
    "partsupp": "ps_partkey integer NOT NULL, ps_suppkey integer NOT NULL, ps_availqty integer NOT NULL,"
    " ps_supplycost numeric(15,2) NOT NULL, ps_comment varchar(199) NOT NULL, PRIMARY KEY (ps_partkey, ps_suppkey)",
    "orders": "o_orderkey integer NOT NULL, o_custkey integer NOT NULL, o_orderstatus char(1) NOT NULL,"
    " o_totalprice numeric(15,2) NOT NULL, o_orderdate date NOT NULL, o_orderpriority char(15) NOT NULL,"
    " o_clerk char(15) NOT NULL, o_shippriority integer NOT NULL, o_comment varchar(79) NOT NULL",
    "lineitem": "l_orderkey integer NOT NULL, l_partkey integer NOT NULL, l_suppkey integer NOT NULL,"
    " l_linenumber integer NOT NULL, l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL,"
    " l_discount numeric(15,2) NOT NULL, l_tax numeric(15,2) NOT NULL, l_returnflag char(1) NOT NULL,"
    " l_linestatus char(1) NOT NULL, l_shipdate date NOT NULL, l_commitdate date NOT NULL,"
    " l_receiptdate date NOT NULL, l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL,"
    " l_comment varchar(44) NOT NULL",
}
#: What a table is distributed by; the others are reference tables.
KEYS = {
    "lineitem": "l_orderkey",
    "orders": "o_orderkey",
    "customer": "c_custkey",
    "part": "p_partkey",
    "partsupp": "ps_partkey",
    "supplier": "s_suppkey",
}
_REGIONS = ("AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST")
_NATIONS = (
    ("ALGERIA", 0), ("ARGENTINA", 1), ("BRAZIL", 1), ("CANADA", 1), ("EGYPT", 4), ("ETHIOPIA", 0), ("FRANCE", 3),
    ("GERMANY", 3), ("INDIA", 2), ("INDONESIA", 2), ("IRAN", 4), ("IRAQ", 4), ("JAPAN", 2), ("JORDAN", 4),
    ("KENYA", 0), ("MOROCCO", 0), ("MOZAMBIQUE", 0), ("PERU", 1), ("CHINA", 2), ("ROMANIA", 3),
    ("SAUDI ARABIA", 4), ("VIETNAM", 2), ("RUSSIA", 3), ("UNITED KINGDOM", 3), ("UNITED STATES", 1),
)  # fmt: skip
_COLORS = ("almond", "forest", "green", "lemon", "misty", "olive", "plum", "salmon", "tan", "violet")
_TYPES = (
    ("STANDARD", "SMALL", "MEDIUM", "LARGE", "ECONOMY", "PROMO"),
    ("ANODIZED", "BURNISHED", "PLATED", "POLISHED", "BRUSHED"),
    ("TIN", "NICKEL", "BRASS", "STEEL", "COPPER"),
)
_CONTAINERS = (
    ("SM", "LG", "MED", "JUMBO", "WRAP"),
    ("CASE", "BOX", "BAG", "JAR", "PKG", "PACK", "CAN", "DRUM"),
)
_SEGMENTS = ("AUTOMOBILE", "BUILDING", "FURNITURE", "MACHINERY", "HOUSEHOLD")
_PRIORITIES = ("1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW")
_MODES = ("REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB")
_INSTRUCTIONS = ("DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN")
_FIRST, _LAST = dt.date(1992, 1, 1), dt.date(1998, 8, 2)
_TODAY = dt.date(1995, 6, 17)


def rows(scale: float) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    """Each table's name and rows; at scale 1 there would be 1.5 million orders."""
    chance = random.Random(19920101)
    suppliers, parts = max(int(10_000 * scale), 10), max(int(200_000 * scale), 60)
    customers, orders = max(int(150_000 * scale), 60), max(int(1_500_000 * scale), 300)
    yield "region", [(n, name, f"region {n}") for n, name in enumerate(_REGIONS)]
    yield "nation", [(n, name, region, f"nation {n}") for n, (name, region) in enumerate(_NATIONS)]
    yield "supplier", [_supplier(n, chance) for n in range(1, suppliers + 1)]
    yield "customer", [_customer(n, chance) for n in range(1, customers + 1)]
    prices = {n: round(900 + n % 1000 / 10 + n % 97, 2) for n in range(1, parts + 1)}
    yield "part", [_part(n, prices[n], chance) for n in range(1, parts + 1)]
    offers = {n: sorted({(n + i * (suppliers // 4 + 1)) % suppliers + 1 for i in range(4)}) for n in prices}
    yield (
        "partsupp",
        [
            (n, s, chance.randint(1, 9999), f"{chance.uniform(1, 1000):.2f}", f"offer {n} {s}")
            for n, sold in offers.items()
            for s in sold
        ],
    )
    made, lines = [], []
    for number in range(1, orders + 1):
        key = (number - 1) // 8 * 32 + (number - 1) % 8 + 1
        day = _FIRST + dt.timedelta(days=chance.randrange((_LAST - _FIRST).days))
        own = [_line(key, n, day, prices, offers, chance) for n in range(1, chance.randint(1, 7) + 1)]
        lines += own
        states = {str(line[9]) for line in own}
        total = sum(float(str(line[5])) for line in own)
        customer = chance.randint(1, customers)
        customer -= customer % 3 == 0  # a third of the customers never order
        comment = "the special packages requests" if chance.random() < 0.1 else f"order {number}"
        made.append(
            (key, max(customer, 1), states.pop() if len(states) == 1 else "P", f"{total:.2f}", day,
             chance.choice(_PRIORITIES), f"Clerk#{chance.randrange(1000):09d}", 0, comment)
        )  # fmt: skip
    yield "orders", made
    yield "lineitem", lines


def _supplier(n: int, chance: random.Random) -> tuple[object, ...]:
    nation = chance.randrange(25)
    comment = "slow Customer many Complaints" if n % 7 == 3 else f"supplier {n}"
    return (n, f"Supplier#{n:09d}", f"street {n}", nation, _phone(nation, chance), _balance(chance), comment)


def _customer(n: int, chance: random.Random) -> tuple[object, ...]:
    nation = chance.randrange(25)
    return (
        n, f"Customer#{n:09d}", f"road {n}", nation, _phone(nation, chance), _balance(chance),
        chance.choice(_SEGMENTS), f"customer {n}",
    )  # fmt: skip


def _part(n: int, price: float, chance: random.Random) -> tuple[object, ...]:
    maker = chance.randint(1, 5)
    return (
        n, " ".join(chance.sample(_COLORS, 3)), f"Manufacturer#{maker}", f"Brand#{maker}{chance.randint(1, 5)}",
        " ".join(chance.choice(words) for words in _TYPES), chance.randint(1, 50),
        " ".join(chance.choice(words) for words in _CONTAINERS), f"{price:.2f}", f"part {n}",
    )  # fmt: skip


def _line(
    key: int,
    n: int,
    day: dt.date,
    prices: dict[int, float],
    offers: dict[int, list[int]],
    chance: random.Random,
) -> tuple[object, ...]:
    part = chance.randrange(1, len(prices) + 1)
    quantity = chance.randint(1, 50)
    shipped = day + dt.timedelta(days=chance.randint(1, 121))
    received = shipped + dt.timedelta(days=chance.randint(1, 30))
    flag = chance.choice("RA") if received <= _TODAY else "N"
    return (
        key, part, chance.choice(offers[part]), n, quantity, f"{quantity * prices[part]:.2f}",
        f"{chance.randint(0, 10) / 100:.2f}", f"{chance.randint(0, 8) / 100:.2f}", flag,
        "O" if shipped > _TODAY else "F", shipped, day + dt.timedelta(days=chance.randint(30, 90)), received,
        chance.choice(_INSTRUCTIONS), chance.choice(_MODES), f"line {n}",
    )  # fmt: skip


def _phone(nation: int, chance: random.Random) -> str:
    return f"{nation + 10}-{chance.randint(100, 999)}-{chance.randint(100, 999)}-{chance.randint(1000, 9999)}"


def _balance(chance: random.Random) -> str:
    return f"{chance.uniform(-999, 9999):.2f}"


def load(pair: oracle.Pair, scale: float, *, columnar: bool = False, spread: bool = True) -> None:
    """Make and fill the tables on both sides.

    Args:
        pair: both clients, in an empty schema.
        scale: of the benchmark.
        columnar: keep all but the reference tables in stripes on the gateway's side.
        spread: distribute part, partsupp, supplier and customer too, each by its key; else they are
            reference tables.
    """
    for name, columns in DDL.items():
        pair.both(f"CREATE TABLE {name} ({columns})")
        if name in KEYS and (spread or name in ("lineitem", "orders")):
            pair.orochi("SELECT create_distributed_table(%s, %s, 4)", (name, KEYS[name]))
        else:
            pair.orochi("SELECT create_reference_table(%s)", (name,))
    for name, made in rows(scale):
        text = "\n".join("\t".join(map(str, row)) for row in made) + "\n"
        pair.copy_in(f"COPY {name} FROM STDIN", text.encode())
        if columnar and name in KEYS:
            pair.orochi(f"ALTER TABLE {name} SET ACCESS METHOD columnar")
    for name in KEYS if columnar else ():
        layouts.compress(pair, name, "columnar")
    for name in DDL:
        pair.plain.execute(f"ANALYZE {name}")
