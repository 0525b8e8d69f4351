"""`upscale` and `segment`: files in, files out, through the same pipeline calls as everything else."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from sisrm import __version__
from sisrm.commands import figures, model
from sisrm.commands.files import Outputs, complain, find_inputs
from sisrm.commands.resume import KEY, Requests
from sisrm.conversion import with_alpha
from sisrm.errors import ImageError, OutOfMemory
from sisrm.images import NOTICES, Photo, read_photo, write_image, write_png
from sisrm.whole_files import written_whole

logger = logging.getLogger(__name__)

T = TypeVar("T")

WRITTEN_BEHIND = 2**24
"""Pixels of the largest result that may wait in memory to be written while the next photo is worked on."""


@dataclass(frozen=True)
class Done:
    """What the model has done for a file. write: writes the results and gives the line that tells of them; pixels: of the largest."""

    write: Callable[[], str]
    pixels: int = 0


def add_upscale_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `upscale`."""
    _add_files(parser, "a .png, .webp or .jpg file for a single input, else a folder; made when missing")
    model.add_call_arguments(parser)
    _add_label_arguments(parser)
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same result (default: a fresh one per image)")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="make every result again; without it one that is there and answers the same photo, settings and weights stays",
    )
    figures.add_arguments(parser)
    model.add_model_arguments(parser)


def add_segment_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `segment`."""
    _add_files(parser, "a folder; made when missing")
    parser.add_argument("--top-k", type=int, metavar="K", help="at most how many labels to give")
    model.add_model_arguments(parser)


def upscale(options: argparse.Namespace) -> int:
    """Run `upscale`, or this process's share of it; returns the exit status."""
    from sisrm.evaluation.parallel import shared

    with shared(options.device) as share:
        options.device = options.device or share.device
        return _upscale(options, share)


def _upscale(options: argparse.Namespace, share) -> int:
    from sisrm.ui.settings import Settings

    inputs = find_inputs(options.inputs)
    # Results may go where inputs come from: all processes share out what the first one found.
    inputs.files = share.gather([inputs.files])[0]
    extras = figures.Extras(options, inputs)
    outputs = Outputs(
        options.output,
        endings=(".png", *extras.endings),
        one_file=len(inputs.files) + len(inputs.problems) == 1,
        keep=[*inputs.files, *extras.sources],
    )
    settings = model.call_options(options)
    requests = Requests(options, settings)
    targets = {path: _planned(outputs, path) for path in inputs.files}
    if share.count > 1:
        with share.main_first():  # one of them downloads and assembles
            model.weights_folder(options)
    pipe = None

    def work(path: Path) -> Done:
        nonlocal pipe
        if isinstance(targets[path], ImageError):
            raise targets[path]
        target, *beside = targets[path]
        if not options.overwrite and target.exists() and _finished(requests, extras, path, targets[path]):
            return Done(lambda: f"{path} -> {target}: finished before")
        photo = _read(path)
        image = photo.image
        subject = extras.subject(path, image)
        if pipe is None:
            pipe = model.load(options)
        recorder = extras.recorder(pipe, settings)
        result = pipe(image, generator=model.generator(options.seed), callback_on_step_end=recorder, **settings)
        for notice in result.notices:
            complain(f"{path}: {NOTICES[notice]}: {result.tile_size} pixels")
        names = [label.name for label in result.labels[0]]
        made_with = {"preset": pipe.preset, **pipe.defaults, **settings}
        if options.scheduler is not None:
            made_with["scheduler"] = options.scheduler
        made_with |= {"seed": result.seed[0], "labels": names, "prompt": result.prompt[0], "version": __version__}
        # As the app writes them: a result of either, dropped into the app, gives its settings back.
        made_with["settings"] = Settings.of_call(pipe, settings, result.seed[0]).as_json()
        keys = [{KEY: digest} for digest in (requests.digest(path), extras.digest(requests, path))]
        width, height = result.images[0].size

        def write() -> str:
            write_image(with_alpha(result.images[0], photo.alpha), target, made_with | keys[0])
            extras.write(beside, image, subject, recorder, result.images[0], made_with | keys[1])
            seconds = result.timings["total"]
            return f"{path} -> {target}: {width} x {height}, {seconds:.1f} s, seed {result.seed[0]}, {', '.join(names)}"

        return Done(write, width * height)

    mine = share.mine(inputs.files)
    logger.info("process %d of %d has %d of %d photos", share.index, share.count, len(mine), len(inputs.files))
    failures = _each(mine, inputs.problems if share.is_main else [], work)
    # A process that leaves with an error makes its launcher end the others: all wait for the last one.
    return 2 if sum(share.gather([failures])) else 0


def _finished(requests: Requests, extras: figures.Extras, path: Path, targets: list[Path]) -> bool:
    """Whether all results for a file are there, made from it as asked."""
    result, *beside = targets
    try:
        return requests.answered(result, requests.digest(path)) and all(
            requests.answered(target, extras.digest(requests, path)) for target in beside
        )
    except OSError:  # a file is gone or unreadable; reading it for the result will say so
        return False


def _planned(outputs: Outputs, path: Path) -> list[Path] | ImageError:
    """Where the results for a file go, or why they cannot; asked for all files first, so that every process knows of every clash."""
    try:
        return outputs.of(path)
    except ImageError as error:
        return error


def segment(options: argparse.Namespace) -> int:
    """Run `segment`; returns the exit status."""
    from PIL import Image

    from sisrm import drawing

    inputs = find_inputs(options.inputs)
    outputs = Outputs(options.output, endings=("_overlay.png", "_classes.png", ".json"))
    pipe = None

    def work(path: Path) -> Done:
        nonlocal pipe
        image = _read(path).image
        overlay, classes, description = outputs.of(path)
        if pipe is None:
            pipe = model.load(options)
        seen = pipe.segment(image, top_k=options.top_k)
        class_map = seen.class_map[0]

        def write() -> str:
            write_png(drawing.draw_overlay(image, class_map), overlay)
            write_png(Image.fromarray(class_map), classes)
            found = {
                "prompt": seen.prompt[0],
                "labels": [asdict(label) for label in seen.labels[0]],
                "classes": [
                    {"name": entry.name, "index": entry.index, "share": entry.share}
                    for entry in drawing.legend(class_map)
                ],
            }
            with written_whole(description) as stream:
                stream.write((json.dumps(found, indent=2) + "\n").encode())
            return f"{path} -> {description}: {seen.prompt[0]}"

        return Done(write, class_map.size)

    return 2 if _each(inputs.files, inputs.problems, work) else 0


def _read(path: Path) -> Photo:
    """Read an input; notices go to stderr."""
    photo = read_photo(path, source=str(path))
    for notice in photo.notices:
        complain(f"{path}: {NOTICES[notice]}")
    return photo


def _each(files: list[Path], problems: list[ImageError], work: Callable[[Path], Done]) -> int:
    """Work on every file, and write the results of each while the model has the next; what cannot be used is told and passed over.
    Returns how much that was."""
    for problem in problems:
        complain(str(problem))
    failures = len(problems)

    def told(path: Path, part: Callable[[], T]) -> T | None:
        nonlocal failures
        try:
            return part()
        except ImageError as error:
            complain(str(error))
        except OutOfMemory as error:
            complain(f"{path}: {error}")
        failures += 1
        return None

    def tell(path: Path, written: Future[str]) -> None:
        line = told(path, written.result)
        if line is not None:
            print(line, flush=True)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer") as writer:
        before: tuple[Path, Future[str]] | None = None
        for path in files:
            done = told(path, partial(work, path))
            if before is not None:
                tell(*before)
            before = None if done is None else (path, writer.submit(done.write))
            if done is not None and done.pixels > WRITTEN_BEHIND:
                tell(*before)
                before = None
        if before is not None:
            tell(*before)
    return failures


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
