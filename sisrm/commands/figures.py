"""What `upscale` writes beside a result when asked: intermediate states (--save-steps) and the paper's figure (--figure)."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sisrm.commands.files import Inputs
from sisrm.commands.resume import Requests
from sisrm.errors import ImageError, ParameterError
from sisrm.evaluation.pairs import REFERENCE_PIXELS, SCALE, images_by_stem
from sisrm.figure import Box, Panel, choose_boxes, draw_figure
from sisrm.images import read_image, write_png
from sisrm.steps import PAPER_SHARES, StateRecorder, require_shares


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `upscale` for more than the result."""
    group = parser.add_argument_group(
        "figures", "Beside the result, and named after it: its intermediate states, and a figure as in the paper."
    )
    group.add_argument(
        "--save-steps",
        type=float,
        nargs="+",
        metavar="F",
        help="write the estimate at F x T, above 0 and below 1, as NAME_FT.png: when a share F of the run's T denoising "
        "steps is still to go. The run starts part of the way up the noise schedule, and T counts its own steps; the "
        "nearest step is taken, of two the later one",
    )
    group.add_argument(
        "--figure",
        action="store_true",
        help="write NAME_figure.png: LR (bicubic), the states (0.5T and 0.2T without --save-steps), the result and "
        "the reference, with a red and a blue box and what is in them, enlarged",
    )
    group.add_argument(
        "--reference",
        metavar="PATH",
        help="the sharp original for the figure, 4x as wide and high as the input: a file, or a folder with a file of "
        "the input's name up to the ending",
    )
    group.add_argument(
        "--boxes",
        nargs=2,
        metavar="X,Y,SIDE",
        help="the red and the blue box in pixels of the input (default: the two places with the most detail in it)",
    )


@dataclass(frozen=True)
class Subject:
    """What the figure of one input needs besides the run: boxes in pixels of the input, and the reference or None."""

    boxes: tuple[Box, ...]
    reference: Image.Image | None


class Extras:
    """The files beside the results of one `upscale` command.

    Args:
        options: what `add_arguments` added, parsed.
        inputs: of the command.

    Attributes:
        endings: of the files, after the result's name; none when nothing was asked for.
        sources: the reference files, which must not be overwritten.

    Raises:
        ParameterError: an option's value is not accepted, or it is given without --figure.
    """

    def __init__(self, options: argparse.Namespace, inputs: Inputs):
        self.figure = options.figure
        for flag, value in (("--reference", options.reference), ("--boxes", options.boxes)):
            if value is not None and not self.figure:
                raise ParameterError(flag, value, "together with --figure")
        self.saved = require_shares(options.save_steps or ())
        self.shares = self.saved or (PAPER_SHARES if self.figure else ())
        self.boxes = None if options.boxes is None else tuple(map(_box, options.boxes))
        self.with_reference = options.reference is not None
        self.references = _references(options.reference, inputs)
        self.endings = (*(f"_{share}T.png" for share in self.saved), *(["_figure.png"] if self.figure else []))
        self.sources = list(self.references.values())

    def digest(self, requests: Requests, path: Path) -> str:
        """Of what the files of one input depend on."""
        references = [self.references[path]] if path in self.references else []
        return requests.digest(path, [self.endings, self.shares, self.boxes], references)

    def subject(self, path: Path, image: Image.Image) -> Subject | None:
        """Boxes and reference for one input, checked before the run; None when no figure is wanted.

        Raises:
            ImageError: a box does not lie in the image, or its reference is missing, unreadable or of another size.
        """
        if not self.figure:
            return None
        size = "{} x {} pixels".format(*image.size)
        for box in self.boxes or ():
            if not box.inside(image.size):
                raise ImageError(path, f"the box {box.x},{box.y},{box.side} does not lie inside its {size}")
        return Subject(self.boxes or choose_boxes(image), self._reference(path, image))

    def recorder(self, pipe, settings: dict) -> StateRecorder | None:
        """The callback for a run; None when no state is wanted."""
        steps = settings.get("num_inference_steps", pipe.config.num_inference_steps)
        # Schedulers of second order go through every step twice.
        return StateRecorder(self.shares, steps * pipe.scheduler.order) if self.shares else None

    def write(
        self,
        targets: list[Path],
        image: Image.Image,
        subject: Subject | None,
        recorder: StateRecorder | None,
        result: Image.Image,
        made_with: dict,
    ) -> None:
        """Write one input's files.

        Args:
            targets: one for each of `endings`. image: the input. recorder: after the run. result: of the run.
            made_with: the run's settings, kept in every file beside what the file is.
        """
        if recorder is None:
            return
        steps = made_with["num_inference_steps"]
        for share, target in zip(self.saved, targets):
            state = {"share_to_go": share, "after_step": recorder.steps[share] + 1}
            write_png(recorder.states[share], target, made_with | state)
        if subject is None:
            return
        enlarged = image.resize(result.size, Image.Resampling.BICUBIC)
        panels = [Panel("LR", enlarged, "bicubic")]
        for share, state in recorder.states.items():
            panels.append(Panel(f"t = {share}T", state, f"after step {recorder.steps[share] + 1} of {steps}"))
        panels.append(Panel("SISRM", result, "result"))
        if subject.reference is not None:
            panels.append(Panel("HR", subject.reference, "reference"))
        figure = draw_figure(panels, [box.scaled(SCALE) for box in subject.boxes])
        boxes = [[box.x, box.y, box.side] for box in subject.boxes]
        write_png(figure, targets[-1], made_with | {"panels": [panel.title for panel in panels], "boxes": boxes})

    def _reference(self, path: Path, image: Image.Image) -> Image.Image | None:
        if not self.with_reference:
            return None
        if path not in self.references:
            raise ImageError(path, "there is no image of this name in the --reference folder")
        source = self.references[path]
        reference = read_image(source, source=str(source), max_pixels=REFERENCE_PIXELS)
        if reference.size != (SCALE * image.width, SCALE * image.height):
            sizes = "{} x {} pixels, the input {} x {}".format(*reference.size, *image.size)
            raise ImageError(source, f"the reference has {sizes}; it must be exactly 4x as wide and as high")
        return reference


def _box(text: str) -> Box:
    """X,Y,SIDE as it was typed."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts) or int(parts[2]) == 0:
        raise ParameterError("--boxes", text, "X,Y,SIDE in whole pixels of the input, SIDE at least 1")
    return Box(*map(int, parts))


def _references(argument: str | None, inputs: Inputs) -> dict[Path, Path]:
    """The reference of every input that has one; empty without --reference."""
    if argument is None:
        return {}
    path = Path(argument)
    if path.is_dir():
        try:
            found = images_by_stem(path)
        except ParameterError as error:
            raise ParameterError("--reference", error.value, error.accepted) from error
        return {source: found[source.stem] for source in inputs.files if source.stem in found}
    if len(inputs.files) + len(inputs.problems) != 1:
        raise ParameterError("--reference", argument, "an existing folder, where there are several inputs")
    return dict.fromkeys(inputs.files, path)
