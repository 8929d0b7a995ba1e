"""What befalls exchanges when links, hosts and processes fail."""

from __future__ import annotations

import asyncio

import pytest
from transport_conformance import Endless
from virtual_network import echo, on_network

from psedge.protocol.errors import UnreachableError
from psedge.protocol.ports import Reply
from psedge.simulation.process import Process

MEGABYTE = bytes(2**20)


def ensure(awaitable):
    return asyncio.ensure_future(awaitable)


class TestPartitions:
    @pytest.mark.parametrize("both_ways", [True, False])
    def test_a_call_waits_until_it_heals(self, both_ways):
        async def scenario(net):
            await net.serve(echo)
            caller = net.caller()
            await caller.call()
            key = net.network.partition(["pi"], ["pc"], both_ways=both_ways)
            call = ensure(caller.call(parts=(MEGABYTE,)))
            await asyncio.sleep(10)
            assert not call.done()
            net.network.heal(key)
            net.network.heal(key)
            assert await call == MEGABYTE
            # A sender's pauses double, so that it may notice late.
            assert 10 < net.loop.time() < 21

        on_network(scenario)

    def test_patience_ends_in_a_partition(self):
        async def scenario(net):
            endless = Endless()
            await net.serve(endless)
            caller = net.caller()
            call = ensure(caller.call(timeout_seconds=5))
            await endless.started.wait()
            key = net.network.partition(["pc"], ["pi"])
            with pytest.raises(UnreachableError, match="gave no answer in 5 s"):
                await call
            await asyncio.sleep(3)
            assert not endless.cancelled.is_set(), "no segment told the server"
            net.network.heal(key)
            await asyncio.wait_for(endless.cancelled.wait(), 10)

        on_network(scenario)

    def test_replies_may_be_cut_off_alone(self):
        async def scenario(net):
            handled = []

            async def handler(incoming):
                handled.append(incoming.path)
                return await echo(incoming)

            await net.serve(handler)
            known, new = net.caller("known"), net.caller("new")
            await known.call("/before")
            net.network.partition(["pc"], ["known", "new"], both_ways=False)
            for caller, path in ((known, "/lost-reply"), (new, "/no-connection")):
                with pytest.raises(UnreachableError):
                    await caller.call(path, timeout_seconds=5)
            assert handled == ["/before", "/lost-reply"]

        on_network(scenario)

    def test_others_are_not_concerned(self):
        async def scenario(net):
            await net.serve(echo)
            one, two = net.caller("one"), net.caller("two")
            net.network.partition(["one"], ["pc"])
            assert await two.seconds() < 0.001
            with pytest.raises(UnreachableError):
                await one.call(timeout_seconds=5)

        on_network(scenario)

    def test_a_connection_is_given_up_after_a_quarter_of_an_hour(self):
        async def scenario(net):
            await net.serve(echo)
            caller = net.caller()
            await caller.call()
            net.network.partition(["pi"], ["pc"])
            with pytest.raises(UnreachableError, match="timed out"):
                await caller.call(timeout_seconds=1e5)
            assert 900 < net.loop.time() < 1200
            with pytest.raises(UnreachableError, match=r"cannot connect .*timed out"):
                await caller.call(timeout_seconds=1e5)

        on_network(scenario)


class TestDeaths:
    def test_a_process_that_dies_is_noticed_at_once(self):
        async def scenario(net):
            endless = Endless()
            await net.serve(endless)
            caller = net.caller()
            call = ensure(caller.call())
            await endless.started.wait()
            net.network.process_died("pc")
            with pytest.raises(UnreachableError, match="broke: Connection reset"):
                await call
            assert net.loop.time() < 0.01
            assert endless.cancelled.is_set()
            with pytest.raises(UnreachableError, match="Connection refused"):
                await caller.call()
            net.pc = net.network.transport("pc")
            await net.serve(echo)
            assert await caller.call(parts=(b"back",)) == b"back"

        on_network(scenario)

    def test_the_calls_of_a_process_end_with_it(self):
        async def scenario(net):
            endless = Endless()
            await net.serve(endless)
            call = ensure(net.caller().call())
            await endless.started.wait()
            net.network.process_died("pi")
            await asyncio.wait_for(endless.cancelled.wait(), 1)
            with pytest.raises(asyncio.CancelledError):
                await call

        on_network(scenario)

    def test_a_host_without_power_is_silent(self):
        async def scenario(net):
            endless = Endless()
            await net.serve(endless)
            caller = net.caller()
            call = ensure(caller.call(timeout_seconds=7))
            await endless.started.wait()
            net.network.host_died("pc")
            with pytest.raises(UnreachableError, match="no answer in 7 s"):
                await call
            assert endless.cancelled.is_set()
            with pytest.raises(UnreachableError, match="no answer in 7 s"):
                await caller.call(timeout_seconds=7)

        on_network(scenario)

    def test_a_host_that_comes_back_knows_no_connection(self):
        async def scenario(net):
            await net.serve(echo)
            waiting, idle = net.caller("waiting"), net.caller("idle")
            await waiting.call()
            await idle.call()
            net.network.host_died("pc")
            call = ensure(waiting.call(parts=(MEGABYTE,)))
            await asyncio.sleep(3)
            net.network.host_revived("pc")
            await net.pc.close()
            net.pc = net.network.transport("pc")
            await net.serve(echo)
            with pytest.raises(UnreachableError, match="reset"):
                await call
            with pytest.raises(UnreachableError, match="reset"):
                await idle.call()
            assert await idle.call(parts=(b"anew",)) == b"anew"

        on_network(scenario)

    def test_a_server_finds_out_about_a_dead_caller_when_it_answers(self):
        async def scenario(net):
            release = asyncio.Event()

            async def handler(incoming):
                await release.wait()
                return Reply((MEGABYTE,))

            await net.serve(handler)
            call = ensure(net.caller().call())
            await asyncio.sleep(1)
            net.network.host_died("pi")
            release.set()
            await asyncio.sleep(1)
            assert net.network.hosts["pc"].connections
            net.network.host_revived("pi")
            await asyncio.sleep(10)
            assert not net.network.hosts["pc"].connections
            assert call.cancelled()

        on_network(scenario)

    def test_a_forgotten_connection_is_reset_when_it_is_used(self):
        async def scenario(net):
            endless = Endless()
            await net.serve(endless)
            caller = net.caller()
            call = ensure(caller.call(timeout_seconds=9))
            await endless.started.wait()
            net.network.half_open("pc", "pi")
            await asyncio.wait_for(endless.cancelled.wait(), 1)
            with pytest.raises(UnreachableError, match="no answer in 9 s"):
                await call

        on_network(scenario)

    def test_connections_are_reset_with_one_peer_or_with_all(self):
        async def scenario(net):
            endless = Endless()
            await net.serve(endless)
            calls = {name: ensure(net.caller(name).call()) for name in ("one", "two")}
            await asyncio.sleep(1)
            net.network.reset_connections("pc", "one")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert calls["one"].done()
            assert not calls["two"].done()
            net.network.reset_connections("pc")
            for call in calls.values():
                with pytest.raises(UnreachableError, match="reset"):
                    await call

        on_network(scenario)

    def test_handlers_belong_to_the_process_that_listens(self):
        async def scenario(net):
            process = Process("pc", 1)
            endless = Endless()
            await process.run(net.serve(endless))
            caller = net.caller()
            call = ensure(caller.call(timeout_seconds=30))
            await endless.started.wait()
            process.stop()
            net.network.freeze("pc")
            with pytest.raises(UnreachableError):
                await call
            assert not endless.cancelled.is_set(), "the process is stopped"
            process.kill()
            net.network.process_died("pc")
            with pytest.raises(UnreachableError, match="refused"):
                await caller.call(timeout_seconds=30)
            assert not endless.cancelled.is_set(), "no finally of a killed process runs"

        on_network(scenario)


class TestRefusals:
    """Only a host that is up can say that nobody listens there."""

    @pytest.mark.parametrize("fault", ["off", "parted", "frozen"])
    def test_a_host_that_is_off_parted_or_frozen_refuses_nothing(self, fault):
        async def scenario(net):
            if fault == "frozen":
                await net.serve(echo)
                net.network.freeze("pc")
            elif fault == "off":
                net.network.host_died("pc")
            else:
                net.network.partition(["pi"], ["pc"])
            with pytest.raises(UnreachableError, match="no answer in 7 s") as caught:
                await net.caller().call(timeout_seconds=7)
            assert not caught.value.refused

        on_network(scenario)

    def test_a_host_whose_process_has_died_refuses(self):
        async def scenario(net):
            await net.serve(echo)
            caller = net.caller()
            await caller.call()
            net.network.process_died("pc")
            for refused in (False, True):
                # The kept connection breaks first, and only a new one can be refused.
                with pytest.raises(UnreachableError) as caught:
                    await caller.call()
                assert caught.value.refused == refused

        on_network(scenario)


class TestFreezing:
    def test_a_kernel_takes_a_window_and_its_process_answers_later(self):
        async def scenario(net):
            started = []

            async def handler(incoming):
                started.append(net.loop.time())
                return await echo(incoming)

            await net.serve(handler)
            caller = net.caller()
            await caller.call()
            net.network.freeze("pc")
            before = net.network.sent_bytes("pi")
            call = ensure(caller.call(parts=(MEGABYTE,)))
            await asyncio.sleep(60)
            assert 2**18 <= net.network.sent_bytes("pi") - before < 1.2 * 2**18
            assert len(started) == 1
            net.network.thaw("pc")
            assert await call == MEGABYTE
            assert net.loop.time() < 60.1

        on_network(scenario)

    def test_a_frozen_caller_hears_its_reply_later(self):
        async def scenario(net):
            async def handler(incoming):
                net.network.freeze("pi")
                return await echo(incoming)

            await net.serve(handler)
            call = ensure(net.caller().call(parts=(b"x",)))
            await asyncio.sleep(20)
            assert not call.done()
            net.network.thaw("pi")
            assert await call == b"x"

        on_network(scenario)

    def test_a_process_may_die_frozen(self):
        async def scenario(net):
            await net.serve(echo)
            caller = net.caller()
            net.network.freeze("pc")
            call = ensure(caller.call())
            await asyncio.sleep(5)
            net.network.process_died("pc")
            with pytest.raises(UnreachableError):
                await call
            net.network.thaw("pc")
            await net.serve(echo)
            assert await caller.call(parts=(b"x",)) == b"x"

        on_network(scenario)
