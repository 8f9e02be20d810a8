"""Rebuild the shipped data set: ``python scripts/build_data.py`` (``--audit`` prints figures).

The work is done by the modules in ``scripts/build_data/``; this file only starts them.
"""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_suffix("")), run_name="__main__")
