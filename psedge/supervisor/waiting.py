"""What a run cannot do without at this moment, in words for people."""

from __future__ import annotations

from psedge.supervisor.run_state import RunState


def waiting_for(state: RunState) -> str:
    """What is missing for training to begin, or to go on; empty if nothing is."""
    if state.ended:
        return ""
    if state.phase == "waiting":
        return _beginning(state)
    if state.attaching:
        return waiting_for_servers(state)
    return _copies(state) or _workers(state)


def waiting_for_servers(state: RunState) -> str:
    """What is missing while a supervisor attaches; empty once all shards are there."""
    there = {report.shard for report in state.fleet.shard_reports()}
    if not state.attaching or there.issuperset(state.fleet.shards()):
        return ""
    missing, wanted = state.missing_servers(), state.experiment.cluster.servers
    if missing:
        return f"the servers of the run: {wanted - missing} of {wanted} there"
    return _copies(state) or "the servers of the run to say how far they are"


def _beginning(state: RunState) -> str:
    """What the start waits for, as far as that is known without asking for it."""
    parts = state.waiting_for_parts()
    if parts:
        return parts
    cluster = state.experiment.cluster
    missing = cluster.workers - state.membership.live_count
    return f"{missing} more of {cluster.workers} workers" if missing > 0 else ""


def _copies(state: RunState) -> str:
    """Shards that stand still until a copy of them is back, with the reason."""
    shards: dict[str, list[int]] = {}
    for shard, why in sorted(state.waits.items()):
        shards.setdefault(why, []).append(shard)
    found = []
    for why, numbers in shards.items():
        which = "shard" if len(numbers) == 1 else "shards"
        found.append(f"{which} {', '.join(map(str, numbers))}: {why}")
    return "; ".join(found)


def _workers(state: RunState) -> str:
    """Nobody trains, although there is something left to train on."""
    done = state.plan is not None and state.plan.finished
    return "" if done or state.membership.live_count else "a worker"
