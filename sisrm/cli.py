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
from sisrm.commands import ablate, doctor, evaluate, extractor, files, measure, model, profile, publish_space, restore
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
--labels tells it instead. --save-steps and --figure show how a result came about, as in the paper's figure 6.

A result that is there and answers the same photo, settings and weights is not made again (--overwrite makes it again), so
a stopped command goes on when it is started again. `accelerate launch` splits the photos over GPUs or machines.

examples:
  python -m sisrm upscale photo.jpg --output photo_x4.png
  python -m sisrm upscale photos/ more/*.webp --output results/
  python -m sisrm upscale photo.jpg --output results/ --labels "sky, sea" --seed 7
  python -m sisrm upscale "scans/*.tif" --output results/ --steps 10 --guidance-scale 3 --no-mff
  python -m sisrm upscale photo.jpg --output results/ --save-steps 0.5 0.2
  python -m sisrm upscale LR/ --output figures/ --figure --reference HR/
  python -m sisrm upscale photo.jpg --output photo_x4.png --preset sd --fast
  accelerate launch --multi_gpu -m sisrm upscale photos/ --output results/ --preset sd

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
only HR is needed: LR is made from it by the degradation that training uses. --protocol realsr and div2k-val take DIR as
the published tables do.

Rows are bicubic, any folder of finished results, any 4x model that spandrel loads, and the model ("ours"), also with
other settings. The output folder receives per_image.csv, summary.json and table.md; the table is printed, the best of
each column bold and the second best underlined. A run that was stopped goes on where it was when it is started again.
`accelerate launch` splits the images over processes and gives the same figures (on CPUs with the same OMP_NUM_THREADS).

PSNR-Y, SSIM-Y and gradient energy are always measured; LPIPS, DISTS, MANIQA, CLIPIQA and NIQE where pyiqa is installed
(pip install -r requirements-eval.txt).

examples:
  python -m sisrm evaluate realsr --output runs/realsr --protocol realsr --method OSEDiff=realsr/OSEDiff
  python -m sisrm evaluate DIV2K_valid_HR --output runs/div2k --protocol div2k-val --method RealESRGAN=RealESRGAN_x4plus.pth
  python -m sisrm evaluate photos --output runs/photos --degrade 0 --limit 10 --ours "10 steps:num_inference_steps=10"
  python -m sisrm evaluate realsr --output runs/peers --no-ours --method A=a/ --method B=b/ --metrics lpips,niqe
  accelerate launch --multi_gpu --num_processes 2 -m sisrm evaluate realsr --output runs/realsr
"""

ABLATE = """\
Take the model's modules out one by one, for table 2 of the paper: SAPE (no labels, no E_m), SCA, MFF, SCA and MFF, and all
of them (baseline), against the full model, on the same images with the same seeds.

Each figure is the mean over the seeds with half of their spread. A mark says that the variant differs from the full model by
more than the spread: down is worse, up is better. The output folder receives ablation.md and ablation.json beside the files
of `evaluate`; a run that was stopped goes on where it was when it is started again.

examples:
  python -m sisrm ablate realsr --output runs/ablate --protocol realsr
  python -m sisrm ablate photos --output runs/ablate --degrade 0 --seeds 0 --limit 10
"""

EXTRACTOR = """\
Measure how well the model reads damaged images: its class map and its labels for every photo, sharp and damaged, against
what a pretrained network (--teacher) sees on the sharp photo.

Every DIR holds HR, with LR (read as it is) or without (then LR is made by every --degradation). The output folder receives
table.md, summary.json, per_image.csv and reliability.png; the table is printed. With --before, the same model from before
its training on damaged images (eq 6) is read beside it.

examples:
  python -m sisrm extractor realsr40 synth24 --teacher teacher/ --output runs/extractor
  python -m sisrm extractor photos --teacher teacher/ --before runs/labels/model --preset runs/sape/model --limit 10
"""

COMPLEXITY = """\
Measure one image through the whole pipeline at its default settings, for table 3 of the paper: parameters, GFLOPs
(every network, every step, guidance included; one multiply-add is two operations), peak memory and wall time (median of
5).

examples:
  python -m sisrm complexity
  python -m sisrm complexity --preset compact --size 128 --json
  python -m sisrm complexity --preset sd --random-weights
"""

PROFILE = """\
Show where one image's time goes: every stage from the file that is read to the PNG that is written, each denoising step by
ControlNet and U-Net, with its time, GFLOPs and memory, and how much of a plain matrix product's speed it reaches on this
machine in the same run.

examples:
  python -m sisrm profile
  python -m sisrm profile --size 128 512 --repeats 9 --json
  python -m sisrm profile --batch 1 4 16 --cold
"""

DOCTOR = """\
Tell what this machine has and what would run on it: device, number format, attention backend and why, versions, free
memory, which weights are there, and which parts of the method are trained in them. Nothing is downloaded. The exit status
is 2 when the preset cannot be loaded as things are.

examples:
  python -m sisrm doctor
  python -m sisrm doctor --preset sd --json
"""

PUBLISH_SPACE = """\
Put this checkout on the Hugging Face hub as a Space, in one commit: the files that git tracks, without tests, benchmarks and
what builds a checkout. Nothing goes when a file is larger than 10 MB or holds something that looks like a secret.

examples:
  python -m sisrm publish-space someone/sisrm --dry-run
  python -m sisrm publish-space someone/sisrm
"""

TRAIN = """\
Train one stage of the model on photos of your own. A stage starts from a pipeline folder (--model) and writes another one
to DIR/model, which the other commands take as --preset and the next stage as --model. With `accelerate launch` the same
command takes the same steps on any number of GPUs.

examples:
  python -m sisrm train init --output runs/init
  python -m sisrm train autoencoder --data shards/ --output runs/autoencoder --model runs/init
  python -m sisrm train it2ic --data photos/ --output runs/it2ic --model runs/backbone/model --resume
  accelerate launch --multi_gpu -m sisrm train it2ic --data shards/ --output runs/it2ic --model runs/backbone/model
  accelerate launch --multi_gpu -m sisrm train sape --preset sd --data DIV2K_train_HR/ --output runs/sape
  python -m sisrm train publish --trained-only --model runs/it2ic/model --output trained
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
    evaluate.add_arguments(command("evaluate", "measure methods against sharp originals", EVALUATE, evaluate.run))
    ablate.add_arguments(command("ablate", "measure what each module gives", ABLATE, ablate.run))
    extractor.add_arguments(command("extractor", "measure how well damaged images are read", EXTRACTOR, extractor.run))
    measure.add_complexity_arguments(
        command("complexity", "measure parameters, FLOPs, memory and time", COMPLEXITY, measure.complexity)
    )
    profile.add_arguments(command("profile", "show where one image's time goes", PROFILE, profile.run))
    doctor.add_arguments(
        command("doctor", "tell what this machine can run, and with which weights", DOCTOR, doctor.run)
    )
    publish_space.add_arguments(
        command("publish-space", "put this checkout on the hub as a Space", PUBLISH_SPACE, publish_space.run)
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
