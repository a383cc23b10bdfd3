"""Errors of nodes speak of the client's tables and types."""

from __future__ import annotations

import pytest

from orochi import errors
from orochi.executor import node_errors


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            'value for domain shop.price violates check constraint "price_check"',
            'value for domain price violates check constraint "price_check"',
        ),
        ("domain shop.price does not allow null values", "domain price does not allow null values"),
        ('invalid input value for enum "My ""Shop".mood: "x"', 'invalid input value for enum mood: "x"'),
        ('invalid input value for enum hidden.mood: "x"', 'invalid input value for enum hidden.mood: "x"'),
        ('duplicate key value: shop.price"', 'duplicate key value: shop.price"'),
    ],
)
def test_types_lose_a_schema_on_the_search_path(message: str, told: str) -> None:
    error = errors.RemoteError({"C": "23514", "M": message})
    node_errors.for_client(error, search_path=('My "Shop', "shop"))
    assert error.fields["M"] == told
