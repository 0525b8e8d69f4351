"""`extractor`: how well SAPE reads damaged images."""

from __future__ import annotations

import argparse
from pathlib import Path

from sisrm.commands import model
from sisrm.errors import ParameterError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `extractor`."""
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a folder with HR and LR, or with HR alone")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        default="runs/extractor",
        help="folder for the figures (default: runs/extractor)",
    )
    parser.add_argument("--teacher", required=True, metavar="PATH", help="a folder with teacher.safetensors")
    parser.add_argument("--before", metavar="FOLDER", help="a pipeline folder from before eq 6, to compare with")
    images = parser.add_argument_group("images")
    images.add_argument(
        "--degradation",
        metavar="A,B,...",
        default="light,seesr,heavy",
        help="how LR is made where there is none: light, camera, seesr, heavy (default: light,seesr,heavy)",
    )
    images.add_argument("--degrade", type=int, default=0, metavar="SEED", help="seed of it (default: 0)")
    images.add_argument("--limit", type=int, metavar="N", help="only the first N images of each folder, by name")
    model.add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run `extractor`; returns the exit status. A bar that is not met is told in the table and is no error."""
    from sisrm.evaluation import extractor
    from sisrm.evaluation.teacher import load_teacher

    degradations = [name.strip() for name in options.degradation.split(",") if name.strip()]
    groups = {}
    for folder in map(Path, options.folders):
        name = folder.resolve().name
        if name in groups:
            raise ParameterError("DIR", str(folder), f"folders of different names; there are two called {name}")
        groups[name] = extractor.sources_of(folder, degradations, options.degrade, options.limit)
    teacher = load_teacher(options.teacher)
    models = {} if options.before is None else {"before": _load_before(options)}
    models["after"] = model.load(options)
    output = Path(options.output)
    extractor.measure(groups, output, models, teacher)
    print((output / "table.md").read_text(encoding="utf-8"), end="")
    return 0


def _load_before(options: argparse.Namespace):
    try:
        return model.load(argparse.Namespace(**{**vars(options), "preset": options.before}))
    except ParameterError as error:
        if error.name != "preset":
            raise
        raise ParameterError("--before", error.value, error.accepted) from error
