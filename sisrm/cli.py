"""The command line, `python -m sisrm COMMAND`: the parser, and how errors are told.

Exit status: 0 when everything worked, 2 when a parameter or an input was refused (one line on stderr says which and
why), 130 when stopped from the keyboard.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from sisrm import __version__
from sisrm.commands import files, measure, model, restore
from sisrm.errors import ParameterError, SISRMError

EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130

OVERVIEW = """\
Take small or damaged photos and give them back 4x larger per side, guided by what is in them.

  python -m sisrm upscale photo.jpg --output photo_x4.png
  python -m sisrm segment photo.jpg --output seen/

`python -m sisrm COMMAND --help` explains every option of a command.
"""

UPSCALE = """\
Enlarge photos 4x per side.

INPUT is a file, a folder (its images, subfolders not included) or a glob pattern in quotes. A result keeps its input's
name and ends in .png; the settings that made it are kept in the file. The model sees what is in the photo by itself;
--labels tells it instead.

examples:
  python -m sisrm upscale photo.jpg --output photo_x4.png
  python -m sisrm upscale photos/ more/*.webp --output results/
  python -m sisrm upscale photo.jpg --output results/ --labels "sky, sea" --seed 7
  python -m sisrm upscale "scans/*.tif" --output results/ --steps 10 --guidance-scale 3 --no-mff

A file that cannot be used is named on stderr with the reason, the others are done, and the exit status is 2.
"""

SEGMENT = """\
Show what the model sees in photos, without enlarging them.

For every INPUT (a file, a folder or a glob pattern in quotes) three files are written into the output folder:
  NAME_overlay.png   the photo with the classes in colour
  NAME_classes.png   the class of every pixel, 0 to 149, as grey values
  NAME.json          the labels with their scores, the prompt, and the share of each class

examples:
  python -m sisrm segment photo.jpg --output seen/
  python -m sisrm segment photos/ --output seen/ --top-k 3
"""

EVALUATE = """\
Measure methods against sharp originals, side by side.

DIR holds HR (the originals) and LR (4x smaller per side), with the same names up to the ending. With --degrade SEED
only HR is needed: LR is made from it by the degradation that training uses. Rows are the model ("ours"), bicubic, and
any folder of finished results. The output folder receives per_image.csv, summary.json and table.md; the table is
printed.

examples:
  python -m sisrm evaluate realsr --output runs/realsr
  python -m sisrm evaluate realsr --output runs/realsr --method OSEDiff=realsr/OSEDiff
  python -m sisrm evaluate photos --output runs/photos --degrade 0 --limit 10
  python -m sisrm evaluate realsr --output runs/peers --no-ours --method A=a/ --method B=b/
"""

COMPLEXITY = """\
Measure one image through the whole pipeline at its default settings, for table 3 of the paper: parameters, GFLOPs
(every network, every step, guidance included; one multiply-add is two operations), peak memory and wall time (median of
5).

examples:
  python -m sisrm complexity
  python -m sisrm complexity --preset compact --size 128 --json
"""

TRAIN = """\
Train one stage of the model on photos of your own. A stage starts from a pipeline folder (--model) and writes another one
to DIR/model, which the other commands take as --preset and the next stage as --model.

examples:
  python -m sisrm train init --output runs/init
  python -m sisrm train autoencoder --data shards/ --output runs/autoencoder --model runs/init
  python -m sisrm train it2ic --data photos/ --output runs/it2ic --model runs/backbone/model --resume
  accelerate launch --multi_gpu -m sisrm train it2ic --data shards/ --output runs/it2ic --model runs/backbone/model
"""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def error(self, message: str):
        self.exit(EXIT_REFUSED, f"{self.prog}: {message} (--help explains)\n")


def build_parser(with_training: bool = False) -> argparse.ArgumentParser:
    """The parser of every command.

    Args:
        with_training: also fill in the options of `train`, which loads the training package.
    """
    parser = OneLineParser(
        prog="python -m sisrm", description=OVERVIEW, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"sisrm {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell on stderr what is being done")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str, text: str, run) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.set_defaults(run=run)
        return added

    restore.add_upscale_arguments(command("upscale", "enlarge photos 4x per side", UPSCALE, restore.upscale))
    restore.add_segment_arguments(command("segment", "show what the model sees in photos", SEGMENT, restore.segment))
    measure.add_evaluate_arguments(
        command("evaluate", "measure methods against sharp originals", EVALUATE, measure.evaluate)
    )
    measure.add_complexity_arguments(
        command("complexity", "measure parameters, FLOPs, memory and time", COMPLEXITY, measure.complexity)
    )
    train = command("train", "train one stage of the model", TRAIN, _train)
    if with_training:
        from sisrm.training import command as training

        training.add_arguments(train)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None takes them from the command line.

    Returns:
        The exit status, see the module's docstring.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser(with_training="train" in arguments[:2]).parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    # It complains when it is imported on a machine without CUDA; the attention backend is probed and reported anyway.
    logging.getLogger("xformers").setLevel(logging.ERROR)
    try:
        return options.run(options)
    except ParameterError as error:
        if error.name in model.FLAGS:
            error = ParameterError(model.FLAGS[error.name], error.value, error.accepted)
        files.complain(str(error))
        return EXIT_REFUSED
    except SISRMError as error:
        files.complain(str(error))
        return EXIT_REFUSED
    except OSError as error:
        # What a full disk or a folder without permission raises while results are written.
        files.complain(f"{error.filename or 'file system'}: {error.strerror or error}")
        return EXIT_REFUSED
    except KeyboardInterrupt:
        files.complain("stopped")
        return EXIT_INTERRUPTED


def _train(options: argparse.Namespace) -> int:
    from sisrm.training import command

    return command.run(options) or 0
