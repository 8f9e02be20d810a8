"""Searches over the same space by other tools, one module each; `peers.py` runs them."""
