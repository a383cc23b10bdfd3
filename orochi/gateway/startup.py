"""From an accepted socket to a session: encryption, cancel requests, and authentication.

Authentication is the coordinator's: the client's StartupMessage and its answers are passed on, so
roles and pg_hba are PostgreSQL's own and no password is seen here. What may come when is held
strictly: one StartupMessage, then only authentication answers until the server is ready. Bytes that
came in clear behind an SSLRequest are never taken for encrypted ones.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

from orochi import errors
from orochi.gateway import client_socket, handover, loopback
from orochi.pgwire import client as pg_client
from orochi.pgwire import codec, messages

if TYPE_CHECKING:
    from orochi.gateway import listener

#: What a client may send ahead of the server being ready.
_EARLY_LIMIT = 1 << 20
_DUMP = b"\0application_name\0pg_dump\0"
#: The code of AuthenticationCleartextPassword.
_CLEAR_TEXT = 3
_length_at = codec.length_at


class Startup:
    """One connection until it has a session."""

    def __init__(self, gateway: listener.Gateway, client: client_socket.ClientSocket) -> None:
        self._gateway = gateway
        self._client = client
        self._buffer = bytearray()
        self._asked: set[int] = set()
        self._encrypted = False
        self._parameters: dict[str, str] | None = None
        self._server: pg_client.PgConnection | None = None
        self._from_server = bytearray()
        self._authenticated = False
        self._counted = False
        self._answered = False
        self._timer = asyncio.get_running_loop().call_later(
            gateway.settings.gateway_auth_timeout, self._timed_out
        )
        client.on_data = self._from_client
        client.on_lost = self._lost

    # --- from the client ---------------------------------------------------------------------------

    def _from_client(self, data: bytes) -> None:
        self._buffer += data
        try:
            if self._parameters is None:
                self._packets()
            else:
                self._answers()
        except errors.OrochiError as error:
            self._refuse(error)

    def _packets(self) -> None:
        while self._parameters is None and not self._client.closed:
            packet = codec.startup_packet(self._buffer)
            if packet is None:
                return
            code, body, end = packet
            raw = _marked(bytes(self._buffer[:end]))
            del self._buffer[:end]
            if code in (codec.SSL_REQUEST, codec.GSSENC_REQUEST):
                if self._buffer or code in self._asked:
                    raise errors.ProtocolViolation("received unencrypted data after an encryption request")
                self._asked.add(code)
                self._encryption(code)
                return
            if code == codec.CANCEL_REQUEST:
                self._cancel(body)
                return
            major = code >> 16
            if major != codec.PROTOCOL_MAJOR:
                raise errors.FeatureNotSupported(
                    f"unsupported frontend protocol {major}.{code & 0xFFFF}: server supports 3.0 to 3.2"
                )
            self._parameters = messages.parse_startup(body)
            if self._parameters.get("user") == loopback.USER:
                self._count()
                self._gateway.background(self._invite(self._parameters))
            else:
                self._admit(raw)

    def _encryption(self, code: int) -> None:
        context = self._gateway.tls
        if code == codec.SSL_REQUEST and context is not None and not self._encrypted:
            self._client.write(b"S")
            self._client.pause(client_socket.CONNECTING)
            self._gateway.background(self._start_tls())
        else:
            self._client.write(b"N")

    async def _start_tls(self) -> None:
        loop = asyncio.get_running_loop()
        context, transport = self._gateway.tls, self._client.transport
        assert context is not None
        assert transport is not None
        self._client.resume(client_socket.CONNECTING)
        try:
            secured = await loop.start_tls(
                transport, self._client, context, server_side=True, ssl_handshake_timeout=10.0
            )
        except (OSError, TimeoutError):
            self._client.abort()
            return
        if secured is not None:
            self._encrypted = True
            self._client.connection_made(secured)

    def _cancel(self, body: bytes) -> None:
        self._stop()
        self._gateway.background(self._pass_on(body))

    async def _pass_on(self, body: bytes) -> None:
        """Close when everybody was told: until then the client waits, or it would hit its next statement."""
        try:
            if len(body) >= 8:
                await self._gateway.cancel(_length_at(body, 0)[0], body[4:])
        finally:
            self._client.close()

    def _count(self) -> None:
        if not self._gateway.admit():
            raise errors.OrochiError("sorry, too many clients already", sqlstate="53300")
        self._counted = True

    def _admit(self, raw: bytes) -> None:
        self._count()
        self._gateway.background(self._connect(raw))

    async def _invite(self, parameters: dict[str, str]) -> None:
        """Ask a function's connection for the password, here or where its caller is served."""
        gateway, pid = self._gateway, loopback.caller_pid(parameters)
        if pid and gateway.serving(pid) is None:
            if handover.HANDED in parameters:
                self._refuse(errors.OrochiError("this gateway does not serve that backend", sqlstate="08004"))
                return
            handed = await handover.find(gateway, parameters)
            if handed is not None and not self._client.closed:
                self._stop()
                await handed.join(self._client)
                return
        self._client.write(messages.message(b"R", _CLEAR_TEXT.to_bytes(4, "big")))

    async def _log_in(self, password: str) -> None:
        """A function's connection: it knows the cluster's secret, and is served as Orochi's own role."""
        gateway = self._gateway
        try:
            expected = loopback.password(await gateway.secret())
            if not hmac.compare_digest(expected.encode(), password.encode()):
                raise errors.OrochiError(
                    f'password authentication failed for user "{loopback.USER}"', sqlstate="28P01"
                )
            end = gateway.coordinator
            server = await pg_client.PgConnection.connect(
                end.host,
                end.port,
                end.user,
                end.password,
                end.dbname,
                options={"application_name": loopback.USER},
                prepared_limit=gateway.settings.prepared_per_connection,
            )
        except errors.OrochiError as error:
            self._refuse(error)
            return
        if self._client.closed:
            server.abort()
            return
        self._authenticated = True
        self._client.write(
            b"".join(
                (
                    messages.message(b"R", bytes(4)),
                    *(messages.parameter_status(*item) for item in server.parameters.items()),
                    messages.message(b"K", server.pid.to_bytes(4, "big") + server.secret),
                    messages.ready_for_query("I"),
                )
            )
        )
        self._begin(server)

    async def _connect(self, raw: bytes) -> None:
        gateway = self._gateway
        server = pg_client.PgConnection(gateway.settings.prepared_per_connection)
        server.tap = self._from_coordinator
        try:
            async with asyncio.timeout(gateway.settings.gateway_auth_timeout):
                await server.open(gateway.coordinator.host, gateway.coordinator.port)
        except (OSError, TimeoutError) as error:
            message = f"the coordinator cannot be reached: {error}"
            self._refuse(errors.OrochiError(message, sqlstate="57P03"))
            return
        if self._client.closed:
            server.abort()
            return
        self._server = server
        server.write(raw)
        try:
            self._answers()
        except errors.OrochiError as error:
            self._refuse(error)

    @property
    def _is_loopback(self) -> bool:
        return self._parameters is not None and self._parameters.get("user") == loopback.USER

    def _answers(self) -> None:
        """Pass on authentication answers; keep anything else until the session begins."""
        buffer = self._buffer
        while len(buffer) >= 5 and not self._authenticated:
            if buffer[0] != 0x70:  # p: PasswordMessage, SASL messages
                raise errors.ProtocolViolation(f"expected password response, got message type {buffer[0]}")
            (length,) = _length_at(buffer, 1)
            codec.check_length(buffer[0], length, codec.AUTH_LIMIT)
            if len(buffer) < length + 1 or (self._server is None and not self._is_loopback):
                break
            if self._is_loopback:
                if self._answered:
                    raise errors.ProtocolViolation("one password is enough")
                self._answered = True
                password = messages.decode(bytes(buffer[5:length]))
                del buffer[: length + 1]
                self._gateway.background(self._log_in(password))
                break
            assert self._server is not None
            self._server.write(bytes(buffer[: length + 1]))
            del buffer[: length + 1]
        if len(buffer) > _EARLY_LIMIT:
            raise errors.ProtocolViolation("too much data before the server was ready")

    # --- from the coordinator ------------------------------------------------------------------------

    def _from_coordinator(self, data: bytes) -> None:
        if not data:
            self._client.close()
            return
        self._client.write(data)
        held = self._from_server
        held += data
        server = self._server
        pos = 0
        while len(held) - pos >= 5 and server is not None:
            end = pos + 1 + _length_at(held, pos + 1)[0]
            if end > len(held):
                break
            kind, payload = held[pos], bytes(held[pos + 5 : end])
            pos = end
            if kind == 0x52 and _length_at(payload, 0)[0] == 0:  # R: AuthenticationOk
                self._authenticated = True
            elif kind == 0x4B:  # K: BackendKeyData
                server.pid, server.secret = _length_at(payload, 0)[0], payload[4:]
            elif kind == 0x53:  # S: ParameterStatus
                name, value = messages.parse_parameter_status(payload)
                server.parameters[name] = value
            elif kind == 0x5A:  # Z: ReadyForQuery
                server.status = chr(payload[0])
                self._begin(server)
                return
        del held[:pos]

    def _begin(self, server: pg_client.PgConnection) -> None:
        self._stop()
        assert self._parameters is not None
        self._counted = False  # the session's now
        early = bytes(self._buffer)
        if self._is_loopback:
            parameters = {
                "user": self._gateway.coordinator.user,
                "database": self._gateway.coordinator.dbname,
            }
            called = self._parameters.get("application_name") == loopback.CALLS
            caller = None if called else loopback.caller_pid(self._parameters)
            self._gateway.begin(self._client, server, parameters, loopback_from=caller)
        else:
            self._gateway.begin(self._client, server, self._parameters)
        if early:
            self._client.on_data(early)

    # --- ending --------------------------------------------------------------------------------------

    def _refuse(self, error: errors.OrochiError) -> None:
        self._client.write(messages.error_response(error, "FATAL"))
        self._client.close()
        self._stop()

    def _timed_out(self) -> None:
        self._client.abort()

    def _stop(self) -> None:
        self._timer.cancel()

    def _lost(self) -> None:
        self._stop()
        if self._server is not None:
            self._server.abort()
        if self._counted:
            self._counted = False
            self._gateway.leave()


def _marked(packet: bytes) -> bytes:
    """A StartupMessage in which pg_dump has another name: its own is refused past the gateway (`_on_login`)."""
    mark = packet.find(_DUMP)
    if mark < 0:
        return packet
    changed = packet.replace(_DUMP, _DUMP[:-1] + b" through orochi\0", 1)
    return len(changed).to_bytes(4, "big") + changed[4:]
