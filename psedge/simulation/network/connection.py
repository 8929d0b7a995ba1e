"""A TCP connection between two hosts: how it comes about, carries messages, and ends.

Everything here runs in callbacks of the network, which belong to no process: a kernel goes on when
its process is stopped, and cleans up when it is dead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psedge.protocol.aiohttp_server import IDLE_SECONDS
from psedge.protocol.errors import UnreachableError
from psedge.simulation.network.body import Body
from psedge.simulation.network.exchange import KERNEL_WINDOW_BYTES, Exchange
from psedge.simulation.network.flow import NEVER, TIMEOUT_SECONDS, Congestion, Flow
from psedge.simulation.network.links import HEADERS_BYTES
from psedge.simulation.network.route import Route
from psedge.simulation.network.serving import VirtualListener

if TYPE_CHECKING:
    from psedge.simulation.network.host import Host
    from psedge.simulation.network.network import Network
    from psedge.simulation.network.transport import VirtualTransport

#: A SYN is repeated after 1, 2, 4, ... seconds, at most so often (Linux, tcp_syn_retries = 6).
SYN_SECONDS = 1.0
SYN_RETRIES = 6
#: The end of a connection is repeated over a broken link at most so often.
FIN_RETRIES = 9


class Connection:
    """Made by its caller. An end is open until its host has closed it or heard of its end."""

    __slots__ = (
        "_back_control",
        "_there_control",
        "back",
        "caller",
        "caller_open",
        "exchange",
        "idle_since",
        "listener",
        "network",
        "port",
        "server",
        "server_open",
        "there",
        "transport",
    )

    def __init__(
        self,
        network: Network,
        transport: VirtualTransport,
        caller: Host,
        server: Host,
        port: int,
        before: Connection | None = None,
    ) -> None:
        """before: one between the same two, which has ended."""
        self.network = network
        self.transport = transport
        self.caller = caller
        self.server = server
        self.port = port
        self.listener: VirtualListener | None = None
        self.exchange: Exchange | None = None
        self.idle_since = network.now
        self.caller_open = True
        self.server_open = False
        there, back = caller.port, server.port
        if caller is server:
            there = back = caller.loopback
        self.there: Route = before.there if before is not None else Route(there, back)
        self.back: Route = before.back if before is not None else Route(back, there)
        self._there_control, self._back_control = Congestion(), Congestion()
        caller.add(self, network.now)

    def connect(self, exchange: Exchange, attempt: int = 0) -> None:
        """Open the connection with its first exchange."""
        if not exchange.active:
            return
        self.exchange = exchange
        network, there, back = self.network, self.there, self.back
        if there.version != network.version:
            self._refresh()
        lost = network.random.random() < there.loss if there.loss else False
        if lost or not (there.open and back.open):
            if attempt == SYN_RETRIES:
                self._failed(exchange, "Connection timed out")
                return
            at = network.now + SYN_SECONDS * 2**attempt
            network.call_at(at, self.connect, exchange, attempt + 1)
            return
        there.source.sent_bytes += 2 * HEADERS_BYTES
        there.source.received_bytes += HEADERS_BYTES
        back.source.received_bytes += 2 * HEADERS_BYTES
        back.source.sent_bytes += HEADERS_BYTES
        jitter = there.jitter + back.jitter
        seconds = there.delay + back.delay
        if jitter:
            seconds += jitter * network.random.random()
        network.call_at(network.now + seconds, self._connected, exchange, attempt)

    def _connected(self, exchange: Exchange, attempt: int) -> None:
        if not exchange.active:
            return
        if not self.server.alive:
            self.connect(exchange, attempt)
            return
        listener = self.server.listeners.get(self.port)
        if listener is None or not (listener.everywhere or self.caller is self.server):
            self._failed(exchange, "Connection refused", refused=True)
            return
        self.listener = listener
        self.server_open = True
        self.server.add(self, self.network.now)
        self.start(exchange)

    def _failed(self, exchange: Exchange, reason: str, *, refused: bool = False) -> None:
        """There is no connection. refused: because the host says that nobody listens there."""
        self.caller_open = False
        self.caller.connections.pop(self, None)
        self._fail(exchange, f"cannot connect to {exchange.url}: {reason}", refused=refused)

    def start(self, exchange: Exchange) -> None:
        """Begin an exchange on the open connection."""
        self.exchange = exchange
        exchange.begin(self)

    def flow(self, body: Body, head_bytes: int, allowance: float, *, to_server: bool) -> Flow:
        """A message for one direction, and perhaps damage to it; `pump` sends it."""
        network = self.network
        route = self.there if to_server else self.back
        if route.version != network.version:
            self._refresh()
        control = self._there_control if to_server else self._back_control
        control.begin(network.now)
        chance = route.corruption_undetected
        if chance and body.length and network.random.random() < chance:
            body.flip(network.random.randrange(8 * body.length))
        return Flow(route, control, head_bytes + body.length, allowance, network.random)

    def pump(self, exchange: Exchange, flow: Flow) -> None:
        """Send as much of a message as may be sent now, and come back for the rest."""
        flow.pumping = False
        request = flow is exchange.request
        if self.exchange is not exchange or not (self.caller_open if request else self.server_open):
            return
        network = self.network
        if flow.route.version != network.version:
            self._refresh()
        now = network.now
        while True:
            if flow.group:
                amount = flow.group
                arrives = flow.cross(now)
                if arrives is None:
                    self._wait(exchange, flow)
                    return
                network.call_at(arrives, self._delivered, exchange, flow, amount)
                if flow.sent == flow.size:
                    return
            at = flow.advance(now)
            if at is None:
                if flow.given_up:
                    self._give_up(request)
                return
            if not flow.short:
                flow.pumping = True
                network.call_at(at, self.pump, exchange, flow)
                return

    def _wait(self, exchange: Exchange, flow: Flow) -> None:
        """Something was swallowed: try again after a while."""
        if flow.pumping:
            return
        at = flow.backoff(self.network.now)
        if at is None:
            self._give_up(flow is exchange.request)
            return
        flow.pumping = True
        self.network.call_at(at, self.pump, exchange, flow)

    def _delivered(self, exchange: Exchange, flow: Flow, amount: int) -> None:
        """A piece of a message is at its receiver's."""
        if self.exchange is not exchange:
            return
        request = flow is exchange.request
        receiver = self.server if request else self.caller
        if not receiver.alive:
            flow.swallowed(amount)
            self._wait(exchange, flow)
        elif receiver.frozen:
            receiver.parked.append((self._delivered, (exchange, flow, amount)))
        elif not (self.server_open if request else self.caller_open):
            self._tell(to_server=not request)
        else:
            flow.delivered += amount
            if request:
                exchange.request_arrived(flow)
            else:
                exchange.reply_arrived(flow)

    def finished(self, exchange: Exchange) -> None:
        """The caller has its whole reply; the connection is free, if the request is through."""
        request = exchange.request
        assert request is not None
        if request.delivered == request.size:
            self.exchange = None
            exchange.forget_server()
            self.idle_since = self.network.now
            self.transport.keep(self)
        else:
            self.close_caller()

    def resume(self, exchange: Exchange, flow: Flow) -> None:
        """The receiver has room again; its sender hears of that."""
        if not flow.pumping and flow.sent < flow.size:
            flow.pumping = True
            at = self.network.now + flow.route.delay
            self.network.call_at(at, self.pump, exchange, flow)

    def freeze(self, host: Host) -> None:
        """The process at one end was stopped: its kernel takes a window's worth, then no more."""
        exchange = self.exchange
        if exchange is None:
            return
        if host is self.server and exchange.request is not None:
            flow = exchange.request
            flow.allowance = min(flow.allowance, flow.delivered + KERNEL_WINDOW_BYTES)
        if host is self.caller and exchange.reply is not None:
            exchange.reply.allowance = exchange.reply.delivered + KERNEL_WINDOW_BYTES

    def thaw(self, host: Host) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        if host is self.server and exchange.request is not None:
            incoming = exchange.incoming
            exchange.make_room(0 if incoming is None else incoming.needed)
        if host is self.caller and exchange.reply is not None:
            exchange.reply.allowance = NEVER
            self.resume(exchange, exchange.reply)

    def close_caller(self, *, tell: bool = True) -> None:
        """The caller's end is closed; what it was going to send is not sent any more."""
        if not self.caller_open:
            return
        self.caller_open = False
        self.caller.connections.pop(self, None)
        exchange = self.exchange
        if exchange is not None:
            exchange.body.keep()
        if tell:
            self._tell(to_server=True)

    def close_server(self, why: str, *, tell: bool = True) -> None:
        """The server's end is closed: its handler is cancelled."""
        if not self.server_open:
            return
        self.server_open = False
        self.server.connections.pop(self, None)
        exchange = self.exchange
        if exchange is not None:
            exchange.server_gone(why)
        if tell:
            self._tell(to_server=False)

    def break_caller(self, why: str) -> None:
        """The caller's end hears that the connection is no more."""
        if not self.caller_open:
            return
        self.close_caller(tell=False)
        if self.exchange is not None:
            url = self.exchange.url
            self._fail(self.exchange, f"the connection to {url} broke: {why}")

    def close_if_idle(self, now: float) -> None:
        """A kernel keeps a connection open for so long after its last exchange."""
        if self.exchange is None and now - self.idle_since > IDLE_SECONDS:
            self.close_caller()
            self.close_server("it was idle")

    def hang_up(self, why: str) -> None:
        """The caller's end is closed by its own process; so is the call on it."""
        exchange = self.exchange
        self.close_caller()
        if exchange is not None:
            self._fail(exchange, f"the call to {exchange.url} was ended: {why}")

    def _give_up(self, request: bool) -> None:
        """A sender has heard nothing for too long."""
        if request:
            self.break_caller("Connection timed out")
        else:
            self.close_server("Connection timed out", tell=False)

    def _tell(self, *, to_server: bool, attempt: int = 0) -> None:
        """Let the other end know that this one is closed, as soon as a segment gets through."""
        network = self.network
        teller = self.caller if to_server else self.server
        if not (self.server_open if to_server else self.caller_open) or not teller.alive:
            return
        self._refresh()
        route = self.there if to_server else self.back
        if route.open:
            at = network.now + route.delay
            if not to_server and self.exchange is not None and self.exchange.reply is not None:
                # What the kernel had sent before arrives before.
                at = max(at, self.exchange.reply.arrives_at)
            network.call_at(at, self._hear, to_server)
        elif attempt < FIN_RETRIES:
            at = network.now + TIMEOUT_SECONDS * 2**attempt
            network.call_at(at, self._tell_again, to_server, attempt + 1)

    def _tell_again(self, to_server: bool, attempt: int) -> None:
        self._tell(to_server=to_server, attempt=attempt)

    def _hear(self, to_server: bool) -> None:
        host = self.server if to_server else self.caller
        if host.frozen:
            host.parked.append((self._hear, (to_server,)))
        elif to_server:
            self.close_server("its caller has gone", tell=False)
        else:
            self.break_caller("Connection reset by peer")

    def _fail(self, exchange: Exchange, message: str, *, refused: bool = False) -> None:
        if exchange.active:
            self.network.trace.record("net", self.caller.name, f"fails {exchange.path}: {message}")
            exchange.fail(UnreachableError(message, refused=refused))

    def _refresh(self) -> None:
        self.network.refresh(self.there, self.back, self.caller, self.server)
