"""The Space's entry point: choose the preset, build the app, launch it.

    python app.py

Environment: SISRM_PRESET (a preset's name; where its weights cannot be used the app runs `compact` and says so), SISRM_WEIGHTS (a folder or
hub repository with trained SISRM weights for `sd`), SISRM_FAST (1: few steps, where the preset can), SISRM_DEVICE (cpu, cuda, cuda:1;
default: a GPU if there is one), SISRM_COMPILE (off, graphs or inductor; default graphs: CUDA graphs on a GPU), SISRM_MAX_PIXELS (largest
photo), SISRM_STORAGE_MB (disk for uploads and results), SISRM_CONCURRENCY (jobs that run at once, default 1), GRADIO_SERVER_NAME
(default 127.0.0.1), GRADIO_SERVER_PORT (default 7860).
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent / "examples"


def main() -> None:
    """Load the preset's pipeline once and serve until stopped."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # xformers complains at import where it has no kernels; the attention backend is chosen by trying, and the app says which it is.
    logging.getLogger("xformers").setLevel(logging.ERROR)

    from sisrm.startup import few_arenas, swift_imports, zero_gpu_package

    few_arenas()
    with swift_imports():
        zero_gpu_package()
        from diffusers.utils import logging as diffusers_logging

        from sisrm.errors import SISRMError
        from sisrm.presets import load_or_fall_back
        from sisrm.runtime import asked_acceleration
        from sisrm.ui.blocks import build_app

    diffusers_logging.disable_progress_bar()
    try:
        device = os.environ.get("SISRM_DEVICE") or None
        pipe = load_or_fall_back(device=device, compile=asked_acceleration(None, "graphs"))
        pipe.set_progress_bar_config(disable=True)
        build_app(pipe, examples=sorted(EXAMPLES.glob("*.png"))).serve()
    except SISRMError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
