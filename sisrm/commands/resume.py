"""Finished results: every file says which request it answers, so that a command that is started again goes on where it was."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from sisrm import __version__
from sisrm.commands import model
from sisrm.made_with import read_made_with

KEY = "request"
"""Of the digest among the settings that a result carries. It tells nothing about the photo: only who has both can compare."""


class Requests:
    """What is asked for, file by file.

    Args:
        options: of the command, as parsed; --preset, --fast, --scheduler and --seed count.
        settings: everything else that a result depends on, as JSON.
    """

    def __init__(self, options: argparse.Namespace, settings: object):
        self._options, self._settings = options, settings

    @cached_property
    def _common(self) -> list[object]:
        options = self._options
        return [__version__, model.weights_identity(options), options.scheduler, options.seed, self._settings]

    def digest(self, source: Path, drawn_with: object = None, sources: Iterable[Path] = ()) -> str:
        """Of one file: the same for the same photo, settings and weights, whatever the files are called.

        Args:
            source: the photo.
            drawn_with: for a file beside the result, what else it depends on, as JSON. sources: and what else is read for it.
        """
        from sisrm.evaluation.identity import file_digest, settings_digest

        return settings_digest([*self._common, drawn_with, *map(file_digest, [source, *sources])])[:32]

    @staticmethod
    def answered(target: Path, digest: str) -> bool:
        """Whether a file is there and answers this very request."""
        return target.is_file() and read_made_with(target, ours=True).get(KEY) == digest
