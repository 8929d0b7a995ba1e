"""`python -m psedge` is the `psedge` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it is still being read from disk is no traceback."""
    try:
        from psedge.cli import main as command
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C")
    command()


if __name__ == "__main__":
    main()
