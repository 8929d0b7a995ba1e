"""`python -m psedge` is the `psedge` command."""

from __future__ import annotations

from psedge.cli import main

main()
