"""The arguments of a call, as the function's twin printed them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orochi import errors
from orochi.operations import hypertable


@dataclasses.dataclass(frozen=True, slots=True)
class Arguments:
    """Values by name; None is NULL, and a name that another overload has is simply absent."""

    function: str
    values: Mapping[str, Mapping[str, Any] | None]

    def has(self, name: str) -> bool:
        """Whether this overload has an argument of that name."""
        return name in self.values

    def text(self, name: str) -> str | None:
        """The value as PostgreSQL prints it."""
        value = self.values.get(name)
        return None if value is None else str(value["text"])

    def required(self, name: str) -> str:
        """The value, which must not be NULL.

        Raises:
            InvalidParameter: it is.
        """
        value = self.text(name)
        if value is None:
            raise errors.InvalidParameter(f"{self.function}(): {name} must not be NULL")
        return value

    def oid(self, name: str) -> int:
        """The OID of a regclass argument."""
        self.required(name)
        value = self.values[name]
        assert value is not None
        return int(value["oid"])

    def integer(self, name: str) -> int | None:
        """An integer argument."""
        value = self.text(name)
        return None if value is None else int(value)

    def boolean(self, name: str) -> bool:
        """A boolean argument; NULL is false."""
        return self.text(name) == "true"

    def fields(self, name: str) -> Mapping[str, Any]:
        """The fields of a composite argument."""
        self.required(name)
        value = self.values[name]
        assert value is not None
        fields: Mapping[str, Any] = value["fields"]
        return fields

    def interval(self, name: str) -> hypertable.Interval | None:
        """A length of time: an SQL interval, an integer, or a literal that is either."""
        value = self.values.get(name)
        return None if value is None else hypertable.Interval(str(value["text"]), str(value["kind"]))

    def given(self, name: str) -> str | None:
        """A `time_value` in its own text form."""
        value = self.values.get(name)
        return None if value is None else str(value["given"])
