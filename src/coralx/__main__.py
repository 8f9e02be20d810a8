"""`python -m coralx` is the `coralx` command."""

from coralx.cli import main

main()
