"""Filters a column of dictionary codes: values are compared once each, and rows by their codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from orochi.storage.columnar import filter as filtering
from orochi.storage.columnar import predicates


def evaluate(codes: pa.DictionaryArray, condition: predicates.Condition) -> Any:
    """Which rows pass; None for all."""
    return _of_codes(codes, filtering.evaluate([(codes.dictionary, _valued(condition))]), condition)


def _valued(condition: predicates.Condition) -> predicates.Condition:
    """What a condition demands of the values of a dictionary, which holds no null."""
    return predicates.Nothing() if isinstance(condition, predicates.IsNull) else condition


def _of_codes(codes: pa.DictionaryArray, chosen: np.ndarray | None, condition: predicates.Condition) -> Any:
    """Rows whose value passes, given which entries of the dictionary do (None: all)."""
    indices = codes.indices
    null = isinstance(condition, predicates.IsNull)
    if not indices.null_count and (chosen is None or not len(chosen)):
        return None if chosen is None else np.zeros(len(codes), np.bool_)
    if chosen is None:
        chosen = np.ones(len(codes.dictionary), np.bool_)
    if not indices.null_count:
        return chosen[indices.to_numpy()]
    at = indices.fill_null(len(chosen)).to_numpy()
    return np.append(chosen, null)[at]
