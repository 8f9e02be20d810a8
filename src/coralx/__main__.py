"""The `coralx` command; `python -m coralx` is the same."""

from __future__ import annotations

import sys

from coralx.interrupts import INTERRUPTED, whole_process


def main() -> None:
    """Run it. What it consists of takes a while to import, which can be stopped, too."""
    with whole_process():
        try:
            from coralx import cli

            cli.main()
        except KeyboardInterrupt:  # before a command, or one more on the way out
            sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
