"""SCRAM: the published example, and servers that are not what they claim."""

from __future__ import annotations

import pytest

from orochi import errors
from orochi.pgwire import scram

NONCE = "rOprNGfwEbeRWgbNEkqO"
CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def test_example_of_rfc_7677_with_an_empty_user() -> None:
    client = scram.ScramClient("pencil", NONCE)
    assert client.first() == b"n,,n=,r=" + NONCE.encode()
    answer = client.final(CHALLENGE)
    assert answer.startswith(b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=")
    with pytest.raises(errors.ProtocolViolation):
        client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")  # for user "user", not ours


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"\xff",
        b"r=other,s=W22Z,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=4096",
        CHALLENGE.replace(b"i=4096", b"i=0"),
        CHALLENGE.replace(b"i=4096", b"i=99999999"),
        CHALLENGE.replace(b"i=4096", b"i=x"),
        CHALLENGE.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=*"),
    ],
)
def test_bad_challenge_is_refused(challenge: bytes) -> None:
    with pytest.raises(errors.ProtocolViolation):
        scram.ScramClient("pencil", NONCE).final(challenge)


def test_outcome_without_a_challenge_is_refused() -> None:
    with pytest.raises(errors.ProtocolViolation):
        scram.ScramClient("pencil", NONCE).verify(b"v=")
