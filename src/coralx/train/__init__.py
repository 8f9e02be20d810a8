"""Training: one Job in, results out. Torch is loaded here alone."""

import os

# OpenMP threads that wait for each other spin on their core, by default for milliseconds. Where
# anything else runs on the machine, two such processes slow each other down many times over
# (measured on 2 cores: 5x and more). A short spin keeps the speed of small layers on a quiet
# machine and sleeps soon enough on a busy one. Must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
