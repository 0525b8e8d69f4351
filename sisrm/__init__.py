"""SISRM: semantic-aware interactive diffusion for image super-resolution (x4)."""

from __future__ import annotations

import importlib

from sisrm.startup import swift_imports

__version__ = "0.1.0"

# Loaded on first use, so that `import sisrm` and `--help` stay quick.
_LAZY = {"SISRMPipeline": "sisrm.pipeline", "load_pipeline": "sisrm.presets"}

__all__ = ["SISRMPipeline", "__version__", "load_pipeline"]


def __getattr__(name: str):
    if name in _LAZY:
        with swift_imports():
            module = importlib.import_module(_LAZY[name])
        return getattr(module, name)
    raise AttributeError(f"module 'sisrm' has no attribute {name!r}")
