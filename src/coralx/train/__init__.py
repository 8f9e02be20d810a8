"""Training: one Job in, results out. Importing any of it loads torch."""

import os

# OpenMP threads that wait for each other burn their core by default. Where anything else runs on
# the machine, two such processes slow each other down many times over (measured: 5x and more on
# 2 cores). Must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
