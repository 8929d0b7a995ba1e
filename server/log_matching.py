"""Whether two logs agree, told from single positions, as in Raft (Ongaro and Ousterhout 2014, "In
Search of an Understandable Consensus Algorithm").

A term has one primary, and its reign begins with an entry of its own. So (term, index) names one
entry for ever, and two logs that have an entry in common have all before it in common.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from psedge.protocol.errors import FrameError
from psedge.protocol.log_entry import Entry, EntryKind
from psedge.protocol.replicas import Append

#: Terms whose beginnings are remembered; a copy whose log ends before them gets an image.
KEPT_TERMS = 64

#: (term, index of its first entry), oldest first.
Terms = tuple[tuple[int, int], ...]


def with_term(terms: Terms, term: int, index: int) -> Terms:
    """With a term that begins at `index`."""
    return (*terms, (term, index))[-KEPT_TERMS:]


def term_at(terms: Terms, index: int) -> int | None:
    """Term of the entry at `index`, 0 before the first; None if it is not remembered."""
    if index == 0:
        return 0
    if terms and terms[-1][1] <= index:
        return terms[-1][0]
    found = bisect_right(terms, index, key=lambda term: term[1])
    return terms[found - 1][0] if found else None


def check_sequence(message: Append, entries: Sequence[Entry]) -> None:
    """Raise FrameError unless the entries of a message follow each other and the one before."""
    index, term = message.before.index, message.before.term
    for entry in entries:
        begins = entry.kind is EntryKind.TERM
        if entry.index != index + 1 or not term + begins <= entry.term <= message.term:
            raise FrameError(f"log entry {entry.index} does not follow entry {index}")
        if entry.term > term and not begins:
            raise FrameError(f"log entry {entry.index} is of term {entry.term}, which never began")
        index, term = entry.index, entry.term
