"""From what was typed to files: inputs (files, folders, patterns), names of results, lines on stderr."""

from __future__ import annotations

import glob
import sys
from dataclasses import dataclass, field
from pathlib import Path

from sisrm.errors import ImageError, ParameterError
from sisrm.images import EXTENSIONS


@dataclass
class Inputs:
    """Files to work on, in the order they were given and each only once, and what could not be found."""

    files: list[Path] = field(default_factory=list)
    problems: list[ImageError] = field(default_factory=list)


def find_inputs(arguments: list[str]) -> Inputs:
    """Expand files, folders and glob patterns.

    A folder stands for the images in it, subfolders not included. What exists under its own name is never taken for a
    pattern. A single file that does not exist stays in the list: reading it gives the clear error.
    """
    inputs = Inputs()
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            matches = [child for child in sorted(path.iterdir()) if child.suffix.lower() in EXTENSIONS]
            if not matches:
                inputs.problems.append(ImageError(argument, "there is no image in this folder"))
        elif glob.has_magic(argument) and not path.exists():
            matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True)) if not Path(match).is_dir()]
            if not matches:
                inputs.problems.append(ImageError(argument, "no file matches this pattern"))
        else:
            matches = [path]
        found.update(dict.fromkeys(matches))
    inputs.files = list(found)
    return inputs


class Outputs:
    """Where results go: a folder, made when missing, or one .png file.

    Args:
        path: as given with --output.
        endings: what a result's name has after the input's name; one result file for each.
        one_file: whether PATH may also be the name of the only result.

    Raises:
        ParameterError: PATH names a file where only a folder will do, or a file that does not end in .png.
    """

    def __init__(self, path: str, endings: tuple[str, ...] = (".png",), one_file: bool = False):
        self.path, self.endings = Path(path), endings
        is_folder = self.path.is_dir()
        self.is_file = one_file and not is_folder and self.path.suffix.lower() == ".png"
        if not self.is_file and not is_folder and (self.path.suffix.lower() in EXTENSIONS or self.path.exists()):
            raise ParameterError("--output", path, "a folder, or a name ending in .png" if one_file else "a folder")
        self._taken: dict[Path, Path] = {}

    def of(self, source: Path) -> list[Path]:
        """The files that the results for `source` go to, one for each ending; their folder is made.

        Raises:
            ImageError: a name is taken by another input's result, or it is the input itself.
        """
        targets = [self.path] if self.is_file else [self.path / f"{source.stem}{ending}" for ending in self.endings]
        for target in targets:
            if target.exists() and source.exists() and target.samefile(source):
                raise ImageError(source, "the result would overwrite it; choose another --output")
            if target in self._taken:
                raise ImageError(
                    source, f"{target} is the result of {self._taken[target]} already; choose another --output"
                )
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        self._taken.update(dict.fromkeys(targets, source))
        return targets


def complain(message: str) -> None:
    """One line on stderr."""
    print(" ".join(message.split()), file=sys.stderr, flush=True)
