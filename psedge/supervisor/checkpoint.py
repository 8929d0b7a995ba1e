"""Checkpoints: a model as its user knows it, and all that training needs to go on from there.

Each is a folder `checkpoints/<samples>/` with `model.safetensors` (the user's names and dtypes),
`optimizer.safetensors` (whole flat vectors, so that a resume may cut them for another number of
servers) and `checkpoint.json`, which is written last and holds the digests of the others: a folder
without it, or that does not match it, is no checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from psedge.protocol.layout import Layout
from psedge.protocol.ports import Buffer, Storage
from psedge.protocol.shards import OptimizerSettings, ShardState
from psedge.protocol.status import Event
from psedge.supervisor.data_plan import PlanState
from psedge.supervisor.membership import MembershipState
from psedge.supervisor.tensor_file import model_file, vectors_file
from psedge.supervisor.write_guard import WriteGuard

FOLDER = "checkpoints"
MODEL_FILE = "model.safetensors"
VECTORS_FILE = "optimizer.safetensors"
META_FILE = "checkpoint.json"

_DIGITS = 12


class CheckpointMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says besides tensors.

    samples: visited when it was taken. version: the largest of the shards. term: the highest.
    settings, groups: the optimizer as it was resolved; groups has an index per parameter tensor.
    figures: what the run's record goes on from, such as seconds and the best accuracy.
    losses: what the journal says was lost until then.
    files: SHA-256 of each other file in the folder; digest: of this file with the digest left
    empty. The store fills both in.
    """

    psedge: str
    run: str
    samples: int
    layout: Layout
    settings: OptimizerSettings
    groups: tuple[int, ...]
    version: int = 0
    term: int = 0
    shard_states: tuple[ShardState, ...] = ()
    plan: PlanState | None = None
    members: MembershipState | None = None
    figures: dict[str, Any] = {}
    losses: tuple[Event, ...] = ()
    files: dict[str, str] = {}
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """folder: relative to the run's. vectors: `parameters`, `buffers`, `counters`, `frozen` and
    `optimizer.NAME`, whole and writable."""

    folder: str
    meta: CheckpointMeta
    vectors: dict[str, NDArray[Any]]


class CheckpointStore:
    """The checkpoints of one run folder.

    keep: how many stay; older ones are removed once a newer one is complete.
    notify: receives sentences for the user about what could not be written or read.
    """

    def __init__(self, storage: Storage, keep: int, notify: Callable[[str], None]) -> None:
        self._storage = storage
        self._keep = keep
        self._notify = notify
        self._guard = WriteGuard(notify)

    @property
    def problem(self) -> str:
        """Why the last checkpoint could not be written, or nothing."""
        return self._guard.problem

    async def save(self, meta: CheckpointMeta, vectors: Mapping[str, NDArray[Any]]) -> bool:
        """Write a checkpoint at `meta.samples`, in place of any that is there already.

        vectors: as in `Checkpoint`; they must not change until this returns.
        False: it could not be written, the user has been told, and older ones are untouched.
        """
        folder = f"{FOLDER}/{meta.samples:0{_DIGITS}d}"
        if not await self._guard.attempt("a checkpoint", self._write(folder, meta, vectors)):
            # What was written of it takes room that the next attempt needs.
            await self._forget(folder)
            return False
        await self._prune(folder)
        return True

    async def latest(self) -> Checkpoint | None:
        """The newest sound checkpoint, or None; damaged ones are passed over, and said so."""
        for folder in reversed(await self._folders()):
            meta = await self._meta(folder)
            content = await self._content(folder, VECTORS_FILE, meta)
            if meta is None or content is None:
                continue
            try:
                loaded = safetensors.numpy.load(content)
            except SafetensorError as error:
                self._damaged(folder, str(error))
                continue
            vectors = {name: np.array(vector) for name, vector in loaded.items()}
            return Checkpoint(folder, meta, vectors)
        return None

    async def latest_model(self) -> tuple[CheckpointMeta, bytes] | None:
        """The newest sound model as the bytes of a safetensors file, or None."""
        for folder in reversed(await self._folders()):
            meta = await self._meta(folder)
            content = await self._content(folder, MODEL_FILE, meta)
            if meta is not None and content is not None:
                return meta, content
        return None

    async def _write(
        self, folder: str, meta: CheckpointMeta, vectors: Mapping[str, NDArray[Any]]
    ) -> None:
        await self._storage.remove(f"{folder}/{META_FILE}")
        files = {
            MODEL_FILE: model_file(meta.layout, vectors),
            VECTORS_FILE: vectors_file(vectors),
        }
        for name, parts in files.items():
            await self._storage.write_atomic(f"{folder}/{name}", parts)
        digests = {name: _digest(parts) for name, parts in files.items()}
        whole = msgspec.structs.replace(meta, files=digests)
        text = _meta_text(msgspec.structs.replace(whole, digest=_digest([_meta_text(whole)])))
        await self._storage.write_atomic(f"{folder}/{META_FILE}", [text])

    async def _prune(self, newest: str) -> None:
        """Remove all but the newest complete ones, and what crashes left unfinished."""
        complete = 0
        for folder in reversed(await self._folders()):
            if META_FILE in await self._storage.names(folder) and complete < self._keep:
                complete += 1
            elif folder != newest:
                await self._forget(folder)

    async def _forget(self, folder: str) -> None:
        try:
            await self._storage.remove(folder)
        except OSError as error:
            self._notify(f"cannot remove {folder}: {error.strerror or error}")

    async def _folders(self) -> list[str]:
        names = await self._storage.names(FOLDER)
        return [f"{FOLDER}/{name}" for name in sorted(names) if name.isdigit()]

    async def _meta(self, folder: str) -> CheckpointMeta | None:
        if META_FILE not in await self._storage.names(folder):
            return None
        try:
            content = await self._storage.read(f"{folder}/{META_FILE}")
            meta = msgspec.json.decode(content, type=CheckpointMeta)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._damaged(folder, f"{META_FILE}: {error}")
            return None
        if meta.digest and _digest([content.replace(meta.digest.encode(), b"", 1)]) != meta.digest:
            self._damaged(folder, f"{META_FILE} has changed since it was written")
            return None
        return meta

    async def _content(self, folder: str, name: str, meta: CheckpointMeta | None) -> bytes | None:
        """A file of a checkpoint, or None if it is not what `meta` says."""
        if meta is None:
            return None
        try:
            content = await self._storage.read(f"{folder}/{name}")
        except OSError as error:
            self._damaged(folder, f"{name}: {error.strerror or error}")
            return None
        if _digest([content]) != meta.files.get(name):
            self._damaged(folder, f"{name} has changed since it was written")
            return None
        return content

    def _damaged(self, folder: str, why: str) -> None:
        self._notify(f"the checkpoint {folder} is damaged and passed over ({why})")


def _meta_text(meta: CheckpointMeta) -> bytes:
    return msgspec.json.format(msgspec.json.encode(meta), indent=1)


def _digest(parts: Sequence[Buffer]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
