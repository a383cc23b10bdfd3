"""SCRAM-SHA-256 as a client does it (RFC 5802, RFC 7677), without channel binding.

The server is checked too: its nonce must extend ours, its iteration count must be sane (a hostile
server could otherwise burn our CPU), and its final signature must prove that it knows the password.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata

from orochi import errors

MECHANISM = "SCRAM-SHA-256"
#: More than any server sets by hand; PBKDF2 with it takes about a second.
ITERATION_LIMIT = 2_000_000

_GS2_HEADER = b"n,,"


class ScramClient:
    """One authentication: `first`, then `final` of the server's challenge, then `verify`."""

    def __init__(self, password: str, nonce: str | None = None) -> None:
        self._password = _prepare(password)
        self._nonce = nonce if nonce is not None else base64.b64encode(secrets.token_bytes(18)).decode()
        self._bare = f"n=,r={self._nonce}".encode()
        self._server_signature = b""

    def first(self) -> bytes:
        """The client-first-message."""
        return _GS2_HEADER + self._bare

    def final(self, challenge: bytes) -> bytes:
        """The client-final-message for the server-first-message `challenge`.

        Raises:
            ProtocolViolation: the challenge is malformed or not for us.
        """
        attributes = _attributes(challenge)
        try:
            nonce = attributes["r"]
            salt = base64.b64decode(attributes["s"], validate=True)
            iterations = int(attributes["i"])
        except (KeyError, ValueError) as error:
            raise errors.ProtocolViolation("malformed SCRAM challenge") from error
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise errors.ProtocolViolation("SCRAM nonce of the server does not extend the client's")
        if not 1 <= iterations <= ITERATION_LIMIT:
            raise errors.ProtocolViolation(f"SCRAM iteration count {iterations} is out of range")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, iterations)
        binding = base64.b64encode(_GS2_HEADER).decode()
        without_proof = f"c={binding},r={nonce}".encode()
        signed = b",".join((self._bare, challenge, without_proof))
        client_key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), signed)
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), signed)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return without_proof + b",p=" + base64.b64encode(proof)

    def verify(self, outcome: bytes) -> None:
        """Check the server-final-message.

        Raises:
            ProtocolViolation: the server could not prove that it knows the password.
        """
        try:
            signature = base64.b64decode(_attributes(outcome).get("v", ""), validate=True)
        except ValueError as error:
            raise errors.ProtocolViolation("malformed SCRAM server signature") from error
        if not self._server_signature or not hmac.compare_digest(signature, self._server_signature):
            raise errors.ProtocolViolation("the server failed to prove that it knows the password")


def md5_password(user: str, password: str, salt: bytes) -> str:
    """The answer to an MD5 password request."""
    inner = hashlib.md5((password + user).encode()).hexdigest()
    return "md5" + hashlib.md5(inner.encode() + salt).hexdigest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, "sha256").digest()


def _attributes(text: bytes) -> dict[str, str]:
    try:
        parts = text.decode("ascii").split(",")
    except UnicodeDecodeError as error:
        raise errors.ProtocolViolation("malformed SCRAM message") from error
    return {part[0]: part[2:] for part in parts if part[1:2] == "="}


def _prepare(password: str) -> bytes:
    """SASLprep; a password that it prohibits is used as it is, as PostgreSQL does."""
    if password.isascii():
        return password.encode()
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in password
        if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    prohibited = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
        stringprep.in_table_a1,
    )
    if not prepared or any(test(char) for char in prepared for test in prohibited):
        return password.encode()
    right_to_left = any(stringprep.in_table_d1(char) for char in prepared)
    if right_to_left and (
        any(stringprep.in_table_d2(char) for char in prepared)
        or not stringprep.in_table_d1(prepared[0])
        or not stringprep.in_table_d1(prepared[-1])
    ):
        return password.encode()
    return prepared.encode()
