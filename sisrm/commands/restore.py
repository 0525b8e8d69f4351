"""`upscale` and `segment`: files in, files out, through the same pipeline calls as everything else."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from sisrm.commands import figures, model
from sisrm.commands.files import Outputs, complain, find_inputs
from sisrm.conversion import with_alpha
from sisrm.errors import ImageError
from sisrm.images import NOTICES, Photo, read_photo, write_image, write_png


def add_upscale_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `upscale`."""
    _add_files(parser, "a .png, .webp or .jpg file for a single input, else a folder; made when missing")
    model.add_call_arguments(parser)
    _add_label_arguments(parser)
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same result (default: a fresh one per image)")
    figures.add_arguments(parser)
    model.add_model_arguments(parser)


def add_segment_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `segment`."""
    _add_files(parser, "a folder; made when missing")
    parser.add_argument("--top-k", type=int, metavar="K", help="at most how many labels to give")
    model.add_model_arguments(parser)


def upscale(options: argparse.Namespace) -> int:
    """Run `upscale`; returns the exit status."""
    inputs = find_inputs(options.inputs)
    extras = figures.Extras(options, inputs)
    outputs = Outputs(
        options.output,
        endings=(".png", *extras.endings),
        one_file=len(inputs.files) + len(inputs.problems) == 1,
        keep=[*inputs.files, *extras.sources],
    )
    settings = model.call_options(options)
    pipe = None

    def work(path: Path) -> str:
        nonlocal pipe
        photo = _read(path)
        image = photo.image
        subject = extras.subject(path, image)
        target, *beside = outputs.of(path)
        if pipe is None:
            pipe = model.load(options)
        recorder = extras.recorder(pipe, settings)
        result = pipe(image, generator=model.generator(options.seed), callback_on_step_end=recorder, **settings)
        names = [label.name for label in result.labels[0]]
        made_with = {"preset": pipe.preset, **pipe.defaults, **settings}
        made_with |= {"seed": result.seed[0], "labels": names, "prompt": result.prompt[0]}
        write_image(with_alpha(result.images[0], photo.alpha), target, made_with)
        extras.write(beside, image, subject, recorder, result.images[0], made_with)
        size = "{} x {}".format(*result.images[0].size)
        return f"{path} -> {target}: {size}, {result.timings['total']:.1f} s, seed {result.seed[0]}, {', '.join(names)}"

    return _each(inputs, work)


def segment(options: argparse.Namespace) -> int:
    """Run `segment`; returns the exit status."""
    from PIL import Image

    from sisrm import drawing

    inputs = find_inputs(options.inputs)
    outputs = Outputs(options.output, endings=("_overlay.png", "_classes.png", ".json"))
    pipe = None

    def work(path: Path) -> str:
        nonlocal pipe
        image = _read(path).image
        overlay, classes, description = outputs.of(path)
        if pipe is None:
            pipe = model.load(options)
        seen = pipe.segment(image, top_k=options.top_k)
        class_map = seen.class_map[0]
        write_png(drawing.draw_overlay(image, class_map), overlay)
        write_png(Image.fromarray(class_map), classes)
        found = {
            "prompt": seen.prompt[0],
            "labels": [asdict(label) for label in seen.labels[0]],
            "classes": [
                {"name": entry.name, "index": entry.index, "share": entry.share} for entry in drawing.legend(class_map)
            ],
        }
        description.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return f"{path} -> {description}: {seen.prompt[0]}"

    return _each(inputs, work)


def _read(path: Path) -> Photo:
    """Read an input; notices go to stderr."""
    photo = read_photo(path, source=str(path))
    for notice in photo.notices:
        complain(f"{path}: {NOTICES[notice]}")
    return photo


def _each(inputs, work: Callable[[Path], str]) -> int:
    """Work on every file; a file that cannot be used is told and passed over."""
    for problem in inputs.problems:
        complain(str(problem))
    failures = len(inputs.problems)
    for path in inputs.files:
        try:
            print(work(path), flush=True)
        except ImageError as error:
            complain(str(error))
            failures += 1
    return 2 if failures else 0


def _add_files(parser: argparse.ArgumentParser, output_help: str) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="a file, a folder or a glob pattern in quotes")
    parser.add_argument("-o", "--output", required=True, metavar="PATH", help=output_help)


def _add_label_arguments(parser: argparse.ArgumentParser) -> None:
    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--labels",
        type=_names,
        metavar="A,B,...",
        help="what is in the photo, by ADE20K names, instead of what the model sees",
    )
    labels.add_argument(
        "--extend-labels",
        action="store_const",
        const=True,
        help="add --labels to what the model sees, instead of replacing it",
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
