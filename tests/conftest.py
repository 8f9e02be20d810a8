"""Loaded before any test: coralx sets up OpenMP before torch is imported."""

import coralx.train  # noqa: F401
