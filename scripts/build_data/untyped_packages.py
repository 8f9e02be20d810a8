"""The packages that ship no usable types, as ``Any``, so that strict checking covers the rest."""

from importlib import import_module
from typing import Any

arrow: Any = import_module("pyarrow")
linear_model: Any = import_module("sklearn.linear_model")
metrics: Any = import_module("sklearn.metrics")
parquet: Any = import_module("pyarrow.parquet")
pipeline: Any = import_module("sklearn.pipeline")
preprocessing: Any = import_module("sklearn.preprocessing")
text: Any = import_module("sklearn.feature_extraction.text")
