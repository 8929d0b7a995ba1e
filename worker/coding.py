"""How one worker's pushes and pulls are coded: as the config says, or as measuring shows.

Where the config leaves something to `auto`, the worker looks at its link's rate and at what each
codec costs and saves on its own latest gradient: at its first pushes, now and then after them, and
soon after its link has changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psedge.compression.choice import CANDIDATES, Choice, Link, choose
from psedge.compression.codec import Codec, Float32Array
from psedge.compression.codec_speed import SAMPLE_ELEMENTS, Measure, Speed
from psedge.compression.lossless import Lossless, available, best_entropy_coder, stage_named
from psedge.compression.table import codec_named
from psedge.protocol.coding import CodingSettings

#: Pushes before which the choice is looked at, besides every JUDGE_EVERY-th: the first knows the
#: link from the model that came down it, the third also from two pushes.
FIRST_JUDGEMENTS = (1, 3, 10)
JUDGE_EVERY = 50
#: A rate that differs by this factor from the one judged before is judged without waiting for that:
#: fifty pushes over a link that has become slow can take minutes.
CHANGED = 2.0
#: From this judgement on a change must show twice in a row: links that are busy with other things
#: for a while are not worth it.
CONFIRMED_FROM = 4
#: Pushes between two judgements that are out of turn: as many transfers make up most of what the
#: link's rate is taken from.
SOON = 10
#: Every so many judgements the codecs' cost is measured anew.
MEASURE_EVERY = 4
#: Links faster than this gain nothing by a lossless stage, so that none is tried.
STAGES_FROM_SECONDS_PER_BYTE = 5e-9
#: Of `auto`, before anything is known.
FIRST = "identity"


class WorkerCoding:
    """The codec and lossless stage of either direction, and why.

    shared: names of the lossless stages that all servers can undo. coded, tail: elements of the
    model that codecs see, and the others. measure: what codecs cost this worker.
    """

    def __init__(
        self,
        settings: CodingSettings,
        shared: Sequence[str],
        coded: int,
        tail: int,
        measure: Measure,
    ) -> None:
        self._settings = settings
        self._measured = measure
        self._common = [name for name in available() if name in ("none", *shared)]
        self._coded, self._tail = coded, tail
        self._codecs: dict[str, Codec] = {}
        self._speeds: dict[str, list[Speed]] = {}
        self._with_stages = False
        self._judgements = 0
        self._judged_at = 0
        self._judged_rates = (0.0, 0.0)
        self._tendency: dict[str, str] = {}
        #: What there is to choose among; a shared chain's codec is the servers' choice.
        self._push_names = _names(settings.push)
        self._pull_names = () if settings.chain == "shared" else _names(settings.pull)
        self._open = not (self._fixed(self._push_names) and self._fixed(self._pull_names))
        self.push = self._first(FIRST if settings.push == "auto" else settings.push)
        self.pull = self._first(FIRST if settings.pull == "auto" else settings.pull)

    @property
    def push_codec(self) -> Codec:
        return self._codec(self.push.codec)

    @property
    def pull_codec(self) -> Codec:
        return self._codec(self.pull.codec)

    @property
    def open(self) -> bool:
        """Whether there is anything to choose."""
        return self._open

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._settings.seed

    @property
    def description(self) -> str:
        """Of both directions, such as `q4 / q8`; empty until something was measured."""
        if self._judgements == 0 and self._open:
            return ""
        return f"{self.push.name} / {self.pull.name}"

    @property
    def reason(self) -> str:
        """Of both directions, in words; empty where the config left no choice."""
        reasons = dict.fromkeys((self.push.reason, self.pull.reason))
        return "; ".join(reason for reason in reasons if reason)

    def due(self, push: int, up: float, down: float) -> bool:
        """Whether the choice is to be looked at before the given push, counted from 1.

        up, down: seconds per byte of the model.
        """
        if not self._open:
            return False
        if push in FIRST_JUDGEMENTS or push % JUDGE_EVERY == 0:
            return True
        if push < self._judged_at + SOON:
            return False
        before_up, before_down = self._judged_rates
        return any(self._tendency.values()) or _differ(up, before_up) or _differ(down, before_down)

    def judge(
        self,
        push: int,
        up: float,
        down: float,
        step_seconds: float,
        gradient: Float32Array,
    ) -> str:
        """Choose anew for both directions. Returns what changed and why, in words; or nothing.

        push: the one before which this is. up, down: seconds per byte of the model. gradient: the
        latest, of all parameters; when it holds NaN or Inf the choice stays as it is.
        """
        self._judged_at, self._judged_rates = push, (up, down)
        sample = gradient[: min(self._coded or len(gradient), SAMPLE_ELEMENTS)]
        if not np.isfinite(sample).all():
            return ""
        stages = max(up, down) > STAGES_FROM_SECONDS_PER_BYTE
        if self._judgements % MEASURE_EVERY == 0 or (stages and not self._with_stages):
            self._measure(sample, stages)
        self._judgements += 1
        before = self.description
        coded, tail = (self._coded, self._tail) if self._coded else (len(gradient), 0)
        self.push = self._chosen(
            self._push_names, Link(up, coded, tail, "up"), step_seconds, self.push
        )
        self.pull = self._chosen(
            self._pull_names, Link(down, coded, tail, "down"), step_seconds, self.pull
        )
        return f"now {self.description}: {self.reason}" if self.description != before else ""

    def _chosen(
        self, names: Sequence[str], link: Link, step_seconds: float, current: Choice
    ) -> Choice:
        if self._fixed(names):
            return current
        speeds = [speed for name in names for speed in self._speeds[name]]
        found = choose(speeds, link, step_seconds, current if self._judgements > 1 else None)
        tendency = _tendency(current, found)
        before, self._tendency[link.way] = self._tendency.get(link.way), tendency
        settled = self._judgements < CONFIRMED_FROM or tendency in ("", before)
        if settled:
            self._tendency[link.way] = ""
        return found if settled else current

    def _measure(self, sample: Float32Array, stages: bool) -> None:
        self._with_stages = stages
        for name in dict.fromkeys((*self._push_names, *self._pull_names)):
            codec = codec_named(name, self._settings)
            tried = [stage_named(stage) for stage in self._stages(name, stages)]
            self._speeds[name] = self._measured([codec], tried, sample)

    def _stages(self, codec: str, wanted: bool) -> list[str]:
        """Lossless stages that may come after a codec."""
        entropy = best_entropy_coder(self._common)
        asked = self._settings.lossless
        if codec == "ecsq":
            return [asked if asked in self._common and asked not in ("none", "lz4") else entropy]
        if asked != "auto":
            return [asked if asked in self._common else entropy if asked == "zstd" else "none"]
        if not wanted:
            return ["none"]
        return [name for name in self._common if name in ("none", "lz4", entropy)]

    def _fixed(self, names: Sequence[str]) -> bool:
        """Whether there is nothing to choose among."""
        return sum(len(self._stages(name, True)) for name in names) <= 1

    def _first(self, codec: str) -> Choice:
        """Before anything was measured."""
        stage = self._stages(codec, False)[0]
        reason = ""
        if self._settings.lossless not in ("auto", stage) and codec != "ecsq":
            reason = f"{self._settings.lossless} is not installed on all machines: {stage} instead"
        return Choice(codec, stage, reason)

    def _codec(self, name: str) -> Codec:
        found = self._codecs.get(name)
        if found is None:
            found = self._codecs[name] = codec_named(name, self._settings)
        return found

    def push_stage(self) -> Lossless:
        return stage_named(self.push.lossless)

    def pull_stage(self) -> Lossless:
        return stage_named(self.pull.lossless)


def _names(setting: str) -> tuple[str, ...]:
    """The codecs that a config's word stands for."""
    return CANDIDATES if setting == "auto" else (setting,)


def _differ(rate: float, before: float) -> bool:
    """Whether a rate has changed, where the slower one of both is slow enough to matter."""
    fast, slow = sorted((rate, before))
    return slow > STAGES_FROM_SECONDS_PER_BYTE and slow > CHANGED * fast


def _tendency(current: Choice, found: Choice) -> str:
    """Which way a change goes; empty for none."""
    if found.codec == current.codec:
        return "" if found.lossless == current.lossless else f"to {found.lossless}"
    return "lossier" if _rank(found) > _rank(current) else "less lossy"


def _rank(choice: Choice) -> int:
    return CANDIDATES.index(choice.codec) if choice.codec in CANDIDATES else 0
