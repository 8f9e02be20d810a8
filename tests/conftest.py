"""Loaded before any test: coralx sets up OpenMP before torch is imported."""

from hypothesis import settings

import coralx.train  # noqa: F401

settings.register_profile("no-deadline", deadline=None)  # no test asserts on time
settings.load_profile("no-deadline")
