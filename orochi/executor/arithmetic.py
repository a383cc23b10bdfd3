"""Arithmetic on numerics, with the decimals that PostgreSQL gives each result (numeric.c).

A value is a `decimal.Decimal` whose exponent says its decimals (`0`, `-2`), or None for NULL; with a double on one side,
PostgreSQL makes the other one a double. What PostgreSQL would refuse, or what would have more digits than are worth
handling here, raises `Declined`.
"""

from __future__ import annotations

import decimal
import math
from typing import TypeAlias

Value: TypeAlias = decimal.Decimal | float | None

#: Exact for all that is let in: digits of a product or a quotient before it is rounded.
_CONTEXT = decimal.Context(prec=1_000, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
_MOST_DIGITS = 200
#: Of base 10,000: decimal digits of one of numeric's own digits.
_DEC_DIGITS = 4
#: A quotient has at least so many significant digits (NUMERIC_MIN_SIG_DIGITS).
_MIN_SIG_DIGITS = 16


class Declined(Exception):
    """PostgreSQL is to compute this, or to refuse it."""


def applied(operator: str, left: Value, right: Value) -> Value:
    """`left operator right`, for one of `+ - * /`.

    Raises:
        Declined: a division by zero, a number that is too long, a double that is too large or too small.
    """
    if left is None or right is None:
        return None
    if isinstance(left, float) or isinstance(right, float):
        return _on_doubles(operator, float(left), float(right))
    scales = _scale(left), _scale(right)
    match operator:
        case "+":
            found = _CONTEXT.add(left, right)
            return _unsigned(found.quantize(_unit(max(scales)), context=_CONTEXT))
        case "-":
            found = _CONTEXT.subtract(left, right)
            return _unsigned(found.quantize(_unit(max(scales)), context=_CONTEXT))
        case "*":
            return _unsigned(_CONTEXT.multiply(left, right))
        case "/":
            return _quotient(left, right, *scales)
    raise Declined


def _on_doubles(operator: str, left: float, right: float) -> float:
    match operator:
        case "+":
            found = left + right
        case "-":
            found = left - right
        case "*":
            found = left * right
        case _:
            if not right:
                raise Declined
            found = left / right
    # zero may come of what was too small, which is an error
    if not math.isfinite(found) or (not found and operator in "*/" and left and right):
        raise Declined
    return found


def null_if_zero(value: Value) -> Value:
    """NULLIF(value, 0)."""
    return None if value is None or not value else value


def _quotient(
    left: decimal.Decimal, right: decimal.Decimal, left_scale: int, right_scale: int
) -> decimal.Decimal:
    if not right:
        raise Declined
    scale = max(_quotient_scale(left, right), left_scale, right_scale, 0)
    # whole numbers, for one rounding only: half away from zero
    top = int(left.scaleb(left_scale, _CONTEXT)) * 10 ** (scale + right_scale)
    bottom = int(right.scaleb(right_scale, _CONTEXT)) * 10**left_scale
    quotient, rest = divmod(abs(top), abs(bottom))
    if 2 * rest >= abs(bottom):
        quotient += 1
    negative = quotient and (top < 0) != (bottom < 0)
    return decimal.Decimal(-quotient if negative else quotient).scaleb(-scale, _CONTEXT)


def _quotient_scale(left: decimal.Decimal, right: decimal.Decimal) -> int:
    """The decimals that give a quotient enough digits (select_div_scale)."""
    left_weight, left_digit = _first_digit(left)
    right_weight, right_digit = _first_digit(right)
    weight = left_weight - right_weight - int(left_digit <= right_digit)
    return _MIN_SIG_DIGITS - weight * _DEC_DIGITS


def _first_digit(value: decimal.Decimal) -> tuple[int, int]:
    """The place and the value of the first digit of base 10,000 that is not zero; zeros for zero."""
    if not value:
        return 0, 0
    weight = value.adjusted() // _DEC_DIGITS
    return weight, int(abs(value).scaleb(-weight * _DEC_DIGITS, _CONTEXT))


def _scale(value: decimal.Decimal) -> int:
    """The decimals of a number that is neither NaN, infinite nor long."""
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent > 0 or len(digits) > _MOST_DIGITS:
        raise Declined
    return -exponent


def _unit(scale: int) -> decimal.Decimal:
    return decimal.Decimal((0, (1,), -scale))


def _unsigned(value: decimal.Decimal) -> decimal.Decimal:
    """Zero has no sign in numeric."""
    return value or abs(value)
