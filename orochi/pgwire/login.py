"""Logging in to a PostgreSQL server: the client's side of every password method."""

from __future__ import annotations

from orochi import errors
from orochi.pgwire import codec, messages, scram
from orochi.pgwire import reply as replies


class Login(replies.Reply):
    """The reply to a StartupMessage: answers authentication requests until ReadyForQuery."""

    __slots__ = ("_password", "_scram", "_user")

    def __init__(self, user: str, password: str | None) -> None:
        super().__init__()
        self._user = user
        self._password = password
        self._scram: scram.ScramClient | None = None

    def answer(self, payload: bytes) -> bytes | None:
        """What to send after an Authentication message; None if nothing."""
        (code,) = codec.length_at(payload, 0)
        rest = payload[4:]
        if code == 0:  # Ok
            return None
        if code == 12:  # SASLFinal
            if self._scram is None:
                raise errors.ProtocolViolation("unexpected SASL message")
            self._scram.verify(rest)
            return None
        if self._password is None:
            raise errors.OrochiError("the server asks for a password and none is set", sqlstate="28P01")
        if code == 3:  # clear text
            return messages.message(b"p", messages.encode(self._password) + b"\0")
        if code == 5:  # MD5
            hashed = scram.md5_password(self._user, self._password, rest[:4])
            return messages.message(b"p", hashed.encode() + b"\0")
        if code == 10:  # SASL: choose a mechanism
            if scram.MECHANISM.encode() not in rest.split(b"\0"):
                raise errors.ProtocolViolation("the server offers no SASL mechanism that is supported")
            self._scram = scram.ScramClient(self._password)
            first = self._scram.first()
            body = scram.MECHANISM.encode() + b"\0" + len(first).to_bytes(4, "big") + first
            return messages.message(b"p", body)
        if code == 11 and self._scram is not None:  # SASLContinue
            return messages.message(b"p", self._scram.final(rest))
        raise errors.ProtocolViolation(f"authentication method {code} is not supported")
