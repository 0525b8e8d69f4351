"""Enlarge a photo through a running app, from a script: progress while it runs, Ctrl + C to cancel, and what the report tells.

pip install gradio_client
python examples/client.py http://127.0.0.1:7860 photo.jpg photo_x4.png --steps 8 --labels sky sea
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError


def main() -> int:
    """Returns the exit status: 0, or 1 where the app refused the photo or a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of the app")
    parser.add_argument("photo", help="to enlarge")
    parser.add_argument("result", help="file to write: .png, .webp or .jpg")
    parser.add_argument("--steps", type=int, help="1 to 20; more steps: more detail, more time")
    parser.add_argument("--labels", nargs="*", help="what is in the photo; without it the model finds out")
    parser.add_argument("--seed", type=int, help="the same seed gives the same picture")
    options = parser.parse_args()

    format = {"webp": "webp", "jpg": "jpeg", "jpeg": "jpeg"}.get(options.result.rpartition(".")[2].lower(), "png")
    settings = {
        name: getattr(options, name) for name in ("steps", "labels", "seed") if getattr(options, name) is not None
    }
    client = Client(options.url, verbose=False)
    job = client.submit(handle_file(options.photo), format=format, **settings, api_name="/upscale")
    try:
        told = ""
        while not job.done():
            for unit in job.status().progress_data or []:
                if unit.desc != told:
                    told = unit.desc
                    print(told, file=sys.stderr)
            time.sleep(0.05)
        path, report = job.result()
    except KeyboardInterrupt:
        job.cancel()
        print("cancelled", file=sys.stderr)
        return 1
    except AppError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shutil.copyfile(path, options.result)
    seen = ", ".join(
        f"{label['name']} {label['score']:.0%}" if label["score"] is not None else label["name"]
        for label in report["labels"]
    )
    width, height = report["output_size"]
    print(f"{options.result}: {width} x {height}, seed {report['seed']}, {report['timings']['total']:.1f} s; {seen}")
    for notice in report["notices"]:
        print(f"note: {notice['text']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
