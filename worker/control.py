"""The worker's side of the supervisor: what to train, who takes part, which data comes next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from numpy.typing import NDArray

from psedge.protocol import messages
from psedge.protocol.address import Address
from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask, ask_bytes
from psedge.protocol.errors import (
    AddressError,
    FrameError,
    RefusedError,
    UnreachableError,
    not_psedge,
)
from psedge.protocol.layout import Layout
from psedge.protocol.messages import (
    Acknowledged,
    Claim,
    ClaimReply,
    Define,
    Experiment,
    ExperimentQuery,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    Join,
    JoinReply,
    Leave,
)
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.shards import OptimizerSettings
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.worker.endings import consequence_of
from psedge.worker.outage import Notify, Outage

#: How often a waiting worker asks whether training may start.
POLL_SECONDS = 0.3
#: A supervisor answers a claim within its poll limit of 20 s.
CLAIM_TIMEOUT_SECONDS = 40.0
#: A model is sent or its frozen part received over a link at least this fast.
SLOWEST_LINK_BYTES_PER_SECOND = 50_000
DEFAULT_TIMEOUT_SECONDS = 10.0
HELLO_TIMEOUT_SECONDS = 5.0

Reply = TypeVar("Reply")


class SupervisorClient:
    """Asks one supervisor. Every method raises UnreachableError when it does not answer.

    seed: of the pauses between tries; each worker takes another, such as its incarnation.

    A refusal becomes the error that its code stands for: Rejoin, StopTraining, ModelError for a
    model that differs, AddressError for a wrong token or version, else RefusedError.
    """

    def __init__(
        self, transport: Transport, clock: Clock, address: Address, notify: Notify, *, seed: int = 0
    ) -> None:
        self.address = address
        self._transport = transport
        self._clock = clock
        self._notify = notify
        self._seed = seed

    def outage(self, *, tell: bool = True) -> Outage:
        """For callers that try again by themselves. tell: say so to people."""
        notify = self._notify if tell else _silently
        return Outage(self._clock, notify, f"supervisor {self.address.url}", self._seed)

    async def patiently(self, ask: Callable[[], Awaitable[Reply]], *, tell: bool = True) -> Reply:
        """What `ask` returns, as often as it takes while the supervisor is away or starts.

        tell: say so to people.
        """
        outage = self.outage(tell=tell)
        while True:
            try:
                reply = await ask()
            except UnreachableError:
                await outage.pause()
            except RefusedError as error:
                if error.code != "not-ready":
                    raise
                await outage.pause()
            else:
                outage.answered()
                return reply

    async def reach(self, *, patience_seconds: float | None = None) -> HelloReply:
        """Say hello until the supervisor answers, telling people that it is awaited.

        patience_seconds: how long to try; None tries for ever.
        Raises AddressError when time is up or something else answers at this address.
        """
        outage = self.outage()
        started = self._clock.now()
        while True:
            try:
                reply = await self.hello()
            except UnreachableError as error:
                waited = self._clock.now() - started
                if patience_seconds is not None and waited >= patience_seconds:
                    raise AddressError(
                        f"{self.address.url} does not answer: {error}. Is `psedge server` "
                        "running there, with --host if it is another machine?"
                    ) from error
                await outage.pause(str(error))
            else:
                outage.answered()
                return reply

    async def hello(self) -> HelloReply:
        """Raises AddressError when the node is no supervisor, or of another version."""
        url = self.address.url
        try:
            reply = await self._ask(
                messages.HELLO,
                Hello(__version__, WIRE_VERSION),
                HelloReply,
                timeout_seconds=HELLO_TIMEOUT_SECONDS,
            )
        except RefusedError as error:
            if error.code == "not-ready":
                raise UnreachableError(f"{url} answers that {error}") from error
            raise not_psedge(url, error) from error
        except FrameError as error:
            raise not_psedge(url, error) from error
        if reply.wire != WIRE_VERSION:
            raise AddressError(
                f"{url} runs psedge {reply.psedge} (wire version {reply.wire}), this machine "
                f"psedge {__version__} (wire version {WIRE_VERSION}): install the same psedge on "
                "every machine"
            )
        if not reply.supervisor:
            raise AddressError(
                f"{url} is a further server without a supervisor: use the join line that the "
                "first `psedge server` printed"
            )
        return reply

    async def experiment(self) -> Experiment:
        """What is trained here, as far as it is known by now."""
        query = ExperimentQuery(__version__, WIRE_VERSION)
        return await self._ask(messages.EXPERIMENT, query, Experiment)

    async def ready_experiment(self) -> Experiment:
        """The experiment once it can be joined or is over, or as soon as it needs a model."""
        told = ""
        outage = self.outage()
        while True:
            try:
                experiment = await self.experiment()
            except UnreachableError:
                await outage.pause()
                continue
            outage.answered()
            if experiment.phase != "waiting" or experiment.needs_model:
                return experiment
            if experiment.waiting_for not in ("", told):
                told = experiment.waiting_for
                self._notify(f"waiting for {told}")
            await self._clock.sleep(POLL_SECONDS)

    async def define(
        self,
        layout: Layout,
        vectors: Mapping[str, NDArray[Any]],
        optimizer: OptimizerSettings | None = None,
        groups: tuple[int, ...] = (),
    ) -> None:
        """Bring the model. Raises RefusedError `conflict` when another worker was first.

        vectors: `parameters`, `buffers`, `counters` and `frozen`, whole.
        """
        message = Define(__version__, WIRE_VERSION, layout, optimizer, groups)
        body = pack(message, vectors)
        timeout = DEFAULT_TIMEOUT_SECONDS + len(body) / SLOWEST_LINK_BYTES_PER_SECOND
        try:
            await ask_bytes(
                self._transport,
                self.address,
                messages.DEFINE,
                (body,),
                limit_bytes=2**16,
                timeout_seconds=timeout,
            )
        except RefusedError as error:
            raise consequence_of(error) from error

    async def frozen(self, length: int) -> memoryview:
        """The `length` bytes of the frozen vector. Raises FrameError if there are not so many."""
        timeout = DEFAULT_TIMEOUT_SECONDS + length / SLOWEST_LINK_BYTES_PER_SECOND
        body = await ask_bytes(
            self._transport,
            self.address,
            messages.FROZEN,
            (msgspec.json.encode(Acknowledged()),),
            limit_bytes=length,
            timeout_seconds=timeout,
        )
        if len(body) != length:
            raise FrameError(f"the frozen parameters are {length} bytes, got {len(body)}")
        return body

    async def join(self, join: Join) -> JoinReply:
        return await self._ask(messages.JOIN, join, JoinReply)

    async def claim(self, claim: Claim) -> ClaimReply:
        return await self._ask(
            messages.CLAIM, claim, ClaimReply, timeout_seconds=CLAIM_TIMEOUT_SECONDS
        )

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatReply:
        return await self._ask(messages.HEARTBEAT, heartbeat, HeartbeatReply)

    async def leave(self, leave: Leave) -> None:
        await self._ask(messages.LEAVE, leave, Acknowledged)

    async def _ask(
        self,
        path: str,
        message: msgspec.Struct,
        reply_type: type[Reply],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Reply:
        try:
            return await ask(
                self._transport,
                self.address,
                path,
                message,
                reply_type,
                timeout_seconds=timeout_seconds,
            )
        except RefusedError as error:
            raise consequence_of(error) from error


def _silently(line: str) -> None:
    """Somebody else tells people."""
