"""The bank: clients that move money between nodes, what they know of each transfer, and the audit.

A transfer changes two accounts and writes its token to a ledger, in one transaction. What its client was
told decides what the ledger must say: acknowledged, exactly once; refused, never; unknown (08007, or no answer to
COMMIT at all), at most once, and the token tells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import psycopg

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

EACH = 1_000
SUM = "SELECT sum(balance)::bigint, count(*) FROM bank.accounts"
_TABLES = (
    "CREATE SCHEMA bank",
    "CREATE TABLE bank.accounts (id int PRIMARY KEY, balance bigint NOT NULL)",
    "SELECT create_distributed_table('bank.accounts', 'id', 8)",
    "CREATE TABLE bank.ledger (token text, source int, target int, amount int)",
    "SELECT create_distributed_table('bank.ledger', 'token', 8)",
)
_PAUSE_SECONDS = 0.1


@dataclasses.dataclass
class Book:
    """What clients were told, by token."""

    acknowledged: list[str] = dataclasses.field(default_factory=list)
    refused: list[str] = dataclasses.field(default_factory=list)
    unknown: list[str] = dataclasses.field(default_factory=list)
    sums: int = 0
    torn: list[object] = dataclasses.field(default_factory=list)
    errors: dict[str, int] = dataclasses.field(default_factory=dict)

    def count(self, error: psycopg.Error) -> None:
        """Remember that an error of this kind was seen."""
        state = error.sqlstate or "lost"
        self.errors[state] = self.errors.get(state, 0) + 1


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the audit found; all of it empty or zero where nothing is wrong."""

    lost: Sequence[str]
    doubled: Sequence[str]
    refused_but_there: Sequence[str]
    wrong_accounts: Sequence[int]
    wrong_sum: int
    torn: int
    resolved: int  # unknown outcomes that turned out to be committed; not a fault

    @property
    def faults(self) -> int:
        """How many things are wrong."""
        lists = (self.lost, self.doubled, self.refused_but_there, self.wrong_accounts)
        return sum(len(found) for found in lists) + abs(self.wrong_sum) + self.torn


class Bank:
    """The workload on one cluster."""

    def __init__(self, dsn: str, accounts: int = 200) -> None:
        self.dsn = dsn
        self.accounts = accounts
        self.book = Book()
        self.stop = threading.Event()

    def connect(self) -> Connection:
        """A client of the gateway, in autocommit."""
        return psycopg.connect(self.dsn, autocommit=True, connect_timeout=10)

    def create(self) -> None:
        """Make and fill the tables."""
        with self.connect() as connection:
            for sql in _TABLES:
                connection.execute(sql)
            connection.execute(
                "INSERT INTO bank.accounts SELECT g, %s FROM generate_series(1, %s) g", (EACH, self.accounts)
            )

    def client(self, number: int) -> None:
        """Transfer until told to stop."""
        chance = random.Random(number)
        for connection in self._connections():
            serial = 0
            started = f"{number}.{time.monotonic_ns()}"
            while not self.stop.is_set() and not connection.closed:
                serial += 1
                source, target = chance.sample(range(1, self.accounts + 1), 2)
                try:
                    self.begin(connection, f"{started}.{serial}", source, target, chance.randint(1, 9))
                except psycopg.Error:
                    time.sleep(_PAUSE_SECONDS)
                    continue
                self.commit(connection, f"{started}.{serial}")

    def reader(self) -> None:
        """Ask for the sum, with snapshot reads, until told to stop."""
        whole = (self.accounts * EACH, self.accounts)
        for connection in self._connections():
            try:
                connection.execute("SET orochi.snapshot_reads = on")
                while not self.stop.is_set():
                    row = connection.execute(SUM).fetchone()
                    self.book.sums += 1
                    if row != whole:
                        self.book.torn.append(row)
            except psycopg.Error as error:
                self.book.count(error)

    def _connections(self) -> Iterator[Connection]:
        """One connection after another, until told to stop."""
        while not self.stop.is_set():
            try:
                connection = self.connect()
            except psycopg.Error:
                time.sleep(_PAUSE_SECONDS)
                continue
            with contextlib.closing(connection):
                yield connection
            time.sleep(_PAUSE_SECONDS)

    def begin(self, connection: Connection, token: str, source: int, target: int, amount: int) -> None:
        """All of a transfer but its COMMIT.

        Raises:
            psycopg.Error: it was refused; the transaction is rolled back.
        """
        change = "UPDATE bank.accounts SET balance = balance + %s WHERE id = %s"
        try:
            connection.execute("BEGIN")
            connection.execute(change, (-amount, source))
            connection.execute(change, (amount, target))
            connection.execute(
                "INSERT INTO bank.ledger VALUES (%s, %s, %s, %s)", (token, source, target, amount)
            )
        except psycopg.Error as error:
            self.book.refused.append(token)
            self.book.count(error)
            with contextlib.suppress(psycopg.Error):
                connection.execute("ROLLBACK")
            raise

    def commit(self, connection: Connection, token: str) -> str:
        """COMMIT, and keep what was said of it: that is also returned."""
        try:
            tag = connection.execute("COMMIT").statusmessage
        except psycopg.Error as error:
            self.book.count(error)
            # without an SQLSTATE nobody answered; a server that was shut down may have committed
            if error.sqlstate is None or error.sqlstate == "08007" or error.sqlstate.startswith("57P"):
                self.book.unknown.append(token)
                return "unknown"
            tag = "ROLLBACK"
        if tag != "COMMIT":
            self.book.refused.append(token)
            return "refused"
        self.book.acknowledged.append(token)
        return "acknowledged"

    def audit(self) -> Findings:
        """Compare what the tables say with what the clients were told."""
        with self.connect() as connection:
            ledger = connection.execute("SELECT token, source, target, amount FROM bank.ledger").fetchall()
            balances = dict(connection.execute("SELECT id, balance FROM bank.accounts").fetchall())
        times: dict[str, int] = {}
        expected = dict.fromkeys(range(1, self.accounts + 1), EACH)
        for token, source, target, amount in ledger:
            times[token] = times.get(token, 0) + 1
            expected[source] -= amount
            expected[target] += amount
        return Findings(
            lost=[token for token in self.book.acknowledged if token not in times],
            doubled=[token for token, count in times.items() if count > 1],
            refused_but_there=[token for token in self.book.refused if token in times],
            wrong_accounts=[
                account for account, balance in expected.items() if balances.get(account) != balance
            ],
            wrong_sum=sum(balances.values()) - self.accounts * EACH,
            torn=len(self.book.torn),
            resolved=sum(token in times for token in self.book.unknown),
        )
