"""From what was typed to files: inputs (files, folders, patterns), names of results, lines on stderr."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sisrm.errors import ImageError, ParameterError
from sisrm.images import EXTENSIONS, RESULT_EXTENSIONS


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
    """Where results go: a folder, made when missing, or one file (PNG, WebP or JPEG).

    Args:
        path: as given with --output.
        endings: what a result's name has after the input's name; one result file for each.
        one_file: whether PATH may also be the name of the only result; the files of further endings are then named after it.
        keep: files that are read and must not be overwritten.

    Raises:
        ParameterError: PATH names a file where only a folder will do, or a file of another kind.
    """

    def __init__(
        self, path: str, endings: tuple[str, ...] = (".png",), one_file: bool = False, keep: Iterable[Path] = ()
    ):
        self.path, self.endings = Path(path), endings
        is_folder = self.path.is_dir()
        self.is_file = one_file and not is_folder and self.path.suffix.lower() in RESULT_EXTENSIONS
        if not self.is_file and not is_folder and (self.path.suffix.lower() in EXTENSIONS or self.path.exists()):
            endings_of_one = f", or a name ending in {', '.join(RESULT_EXTENSIONS)}" if one_file else ""
            raise ParameterError("--output", path, f"a folder{endings_of_one}")
        self._taken: dict[Path, Path] = {}
        self._kept = {kept.resolve() for kept in keep}

    def of(self, source: Path) -> list[Path]:
        """The files that the results for `source` go to, one for each ending; their folder is made.

        Raises:
            ImageError: a name is taken by another input's result, or it is the input itself or another file to keep.
        """
        if self.is_file:
            targets = [self.path, *(self.path.with_name(self.path.stem + ending) for ending in self.endings[1:])]
        else:
            targets = [self.path / f"{source.stem}{ending}" for ending in self.endings]
        for target in targets:
            if target.exists() and source.exists() and target.samefile(source):
                raise ImageError(source, "the result would overwrite it; choose another --output")
            if target.resolve() in self._kept and target.exists():
                raise ImageError(source, f"the result would overwrite {target}; choose another --output")
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
