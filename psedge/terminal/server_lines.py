"""The servers of a run in its picture: who holds which shard, and what no second copy is of."""

from __future__ import annotations

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from psedge.protocol.status import CopyStatus, ServerStatus, Status
from psedge.terminal import figures
from psedge.terminal.worker_table import STATE_STYLE

#: Terminals of this width have room for the servers' addresses.
_ADDRESS_WIDTH = 92


def server_lines(status: Status, width: int) -> Padding:
    """The servers one after the other, as many a line as fit; of the dead, who is still missed."""
    replicated = any(shard.wanted for shard in status.shards)
    servers = [server for server in status.servers if server.state != "dead" or _is_missed(server)]
    entries = [_server(server, width >= _ADDRESS_WIDTH, replicated) for server in servers]
    column = max((entry.cell_len for entry in entries), default=0) + 3
    each = max(1, min(len(entries), (width - 1) // column))
    grid = Table.grid(padding=(0, 3, 0, 0))
    for start in range(0, len(entries), each):
        grid.add_row(*entries[start : start + each])
    return Padding(grid, (0, 0, 0, 1))


def unbacked_line(status: Status) -> Text | None:
    """Shards that the loss of one server would lose, although there should be copies of them."""
    alone = [str(shard.shard) for shard in status.shards if shard.wanted and not shard.backups]
    if not alone or status.phase != "training":
        return None
    which = f"shard {alone[0]} has" if len(alone) == 1 else f"shards {', '.join(alone)} have"
    return Text(f" {which} no backup", style="yellow")


def _is_missed(server: ServerStatus) -> bool:
    """Of the dead, those that nobody has replaced."""
    return bool(server.shards) or any(copy.role != "learner" for copy in server.copies)


def _server(server: ServerStatus, with_address: bool, replicated: bool) -> Text:
    line = Text.assemble(("● ", STATE_STYLE[server.state]), f"server {server.server}", no_wrap=True)
    if server.state != "alive":
        line.append(f" {server.state}", style=STATE_STYLE[server.state])
    if with_address and server.url:
        line.append(f" {server.url.removeprefix('http://')}", style="dim")
    facts = [f"shard {shard}" for shard in server.shards]
    if replicated:
        facts = [_role(server.copies, role) for role in ("primary", "backup", "learner")]
    facts.append(figures.plural(server.version, "update"))
    line.append(" " + " · ".join(fact for fact in facts if fact), style="dim")
    return line


def _role(copies: tuple[CopyStatus, ...], role: str) -> str:
    """Of which shards a server has this role; empty if of none."""
    found = [copy for copy in copies if copy.role == role]
    if not found:
        return ""
    shards = [
        f"{copy.shard} ({figures.count(copy.behind)} behind)"
        if role == "learner"
        else f"{copy.shard}"
        for copy in found
    ]
    return f"{role} of {', '.join(shards)}"
