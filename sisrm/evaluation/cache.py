"""Finished rows on disk, so that a run that was stopped goes on where it was.

One small JSON file per image and method, written in one step: a stopped run loses the image in work and nothing else.
A file counts only for the settings, weights, metrics and library versions that made it, and only while the image files
that it rests on are unchanged; rows of other settings lie beside it and never mix.
"""

from __future__ import annotations

import json
from pathlib import Path

from sisrm.evaluation.identity import settings_digest
from sisrm.whole_files import written_whole


class RowCache:
    """The finished rows of one method.

    Args:
        folder: of the evaluation's cache; `folder/KEY.json` says what the rows in `folder/KEY/` were made with.
        identity: everything but the image files that decides a row's values; must fit into JSON.
    """

    def __init__(self, folder: Path, identity: dict):
        key = settings_digest(identity)[:16]
        self.folder = folder / key
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(folder / f"{key}.json", identity)

    def read(self, image: str, inputs: str) -> dict[str, float] | None:
        """The values of an image, or None where there are none yet.

        Args:
            image: its name.
            inputs: hash of the image files that the values rest on.
        """
        try:
            row = json.loads((self.folder / f"{image}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return row["values"] if row["inputs"] == inputs else None

    def write(self, image: str, inputs: str, values: dict[str, float]) -> None:
        """Keep the values of an image; see `read`. Floats come back exactly as they were."""
        _write(self.folder / f"{image}.json", {"inputs": inputs, "values": values})


def _write(path: Path, content: dict) -> None:
    with written_whole(path) as stream:
        stream.write((json.dumps(content, indent=1, default=str) + "\n").encode())
