"""How much was encoded and decoded, counted where it happens, so that it can be accounted for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from functools import partial

#: Names of a codec and of the lossless stage behind it.
Coding = tuple[str, str]
Elements = MutableMapping[Coding, int]


@dataclass(slots=True)
class CodingWork:
    """Elements by codec and stage. Those that travel as float32 whatever the codec don't count.

    encoded: with a residual, as pushes are. decoded: into a vector, as pulls are. applied: decoded
    and given to an update rule in one pass. published: encoded as a difference to what a worker has
    and added to that, as shards do for pulls.
    """

    encoded: Elements = field(default_factory=partial(defaultdict, int))
    decoded: Elements = field(default_factory=partial(defaultdict, int))
    applied: Elements = field(default_factory=partial(defaultdict, int))
    published: Elements = field(default_factory=partial(defaultdict, int))

    def drain(self) -> CodingWork:
        """What was counted since the last call."""
        since = CodingWork(self.encoded, self.decoded, self.applied, self.published)
        self.encoded, self.decoded = defaultdict(int), defaultdict(int)
        self.applied, self.published = defaultdict(int), defaultdict(int)
        return since
