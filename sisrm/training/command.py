"""`python -m sisrm train STAGE`: options, and from a stage's name to a running loop.

    init -> autoencoder -> segmenter -> labels -> sape -> backbone -> it2ic -> finishing -> publish

Each stage starts from a pipeline folder (`--model`) and writes a whole one again (OUTPUT/model), so that stages chain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sisrm.checks import require_integer
from sisrm.errors import ParameterError
from sisrm.training.optimizers import OPTIMIZERS
from sisrm.training.recipes import RECIPES, Recipe, recipe_of, table

STAGES = {
    "init": "write a compact pipeline folder with random weights",
    "autoencoder": "latent space, on sharp photos",
    "segmenter": "SegFormer on labelled photos, with --teacher also on its soft labels and features",
    "labels": "mask encoder and label generator: which classes are present",
    "sape": "eq 6: the degraded image is read like the sharp one (LoRA, merged)",
    "backbone": "text-to-image U-Net on (latent, label prompt) pairs",
    "it2ic": "eq 9: image encoder, ControlNet and SCA",
    "finishing": "sharpness through the decoder: pixels, teacher features, discriminator",
    "publish": "write a trained pipeline folder in half precision, as it is bundled",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "stages, in order:\n" + "\n".join(f"  {name:12} {text}" for name, text in STAGES.items())
    parser.epilog += "\n\n" + table()
    parser.add_argument("stage", choices=list(STAGES), metavar="STAGE", help="one of " + ", ".join(STAGES))
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="PATH",
        help="WebDataset shards (.tar), folders of shards, or folders of photos, such as DIV2K's or LSDIR's",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="run folder: DIR/model (a pipeline folder), DIR/checkpoint, DIR/logs",
    )
    parser.add_argument(
        "--preset",
        choices=list(RECIPES),
        help="whose settings are the defaults (below), and the pipeline to start from without --model (default: compact)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME|DIR",
        help="pipeline to start from: a preset's name, or a pipeline folder such as RUN/model of the stage before",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from DIR/checkpoint, with the same samples as an unbroken run"
    )
    parser.add_argument(
        "--teacher", metavar="PATH", help="folder with teacher.safetensors: for segmenter and finishing"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps (default: see below)")
    parser.add_argument("--minutes", type=float, help="end after this wall time; the learning rate falls accordingly")
    parser.add_argument(
        "--batch", type=int, help="images per optimiser step, of all processes together (default: see below)"
    )
    parser.add_argument(
        "--accumulation",
        type=int,
        default=1,
        metavar="N",
        help="work on a process's images in N parts, one after the other: less memory, the same step (default: 1)",
    )
    parser.add_argument("--learning-rate", type=float, help="peak learning rate (default: see below)")
    parser.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        help="muon moves the linear layers by orthogonal steps; adam8bit is AdamW with its state in 8 bits, which needs the "
        "package bitsandbytes (default: see below)",
    )
    parser.add_argument("--crop", type=int, help="crop side in HR pixels (default: see below)")
    parser.add_argument(
        "--ema", type=float, default=0.999, help="decay of the weights' running average (default: 0.999)"
    )
    parser.add_argument(
        "--freeze-unet",
        action="store_true",
        help="it2ic: train SCA, ControlNet and image encoder only, as in the paper and always with --preset sd; finishing: train "
        "decoder and image encoder only",
    )
    parser.add_argument("--head-only", action="store_true", help="labels: refit the label generator alone, E_m stays")
    parser.add_argument("--adversarial", type=float, help="finishing: weight of the discriminator (0: none)")
    parser.add_argument("--features", type=float, help="finishing: weight of the teacher's feature distance")
    parser.add_argument(
        "--softness", type=float, metavar="SIGMA", help="finishing: blur of what is aimed at, in pixels; 0: as sharp as the photos"
    )
    parser.add_argument("--spectrum", type=float, help="finishing: weight of the local power spectra's difference")
    parser.add_argument(
        "--exclude-sources",
        nargs="*",
        default=[],
        metavar="PREFIX",
        help="leave out photos whose key starts so (licences)",
    )
    parser.add_argument(
        "--mixed-precision", default="no", choices=["no", "bf16", "fp16"], help="autocast precision (default: no)"
    )
    parser.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="sape, it2ic: compute activations again on the way back instead of keeping them; less memory, more time",
    )
    parser.add_argument(
        "--trained-only",
        action="store_true",
        help="publish: only what SISRM trained on public parts, as SISRM_WEIGHTS reads it (--preset sd)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples (default: 1)")
    parser.add_argument(
        "--checkpoint-minutes", type=float, help="minutes between checkpoints (default: 4; 30 with --preset sd)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of samples, noise and initial weights (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run one stage; -> exit status. Raises ParameterError or WeightsError for arguments that cannot work."""
    output = Path(args.output)
    preset = args.preset or (args.model if args.model in RECIPES else "compact")
    model = args.model or preset
    if args.stage == "init":
        from sisrm.training.compact import initialise

        initialise(output, args.seed)
        return 0
    if args.stage == "publish":
        from sisrm.training.publishing import publish, publish_trained

        if args.trained_only:
            print("publish: " + ", ".join(publish_trained(model, output)))
        else:
            publish(model, output)
        return 0
    recipe = recipe_of(preset, args.stage)
    if not args.data:
        raise ParameterError("--data", args.data, "at least one shard or folder")
    from sisrm.evaluation.parallel import shared

    with shared() as share:
        return _run_stage(args, model, recipe, share)


def _run_stage(args: argparse.Namespace, model: str, recipe: Recipe, share) -> int:
    """Run a stage in this process, one of those that `share` knows."""
    import torch

    from sisrm.training.checkpoints import require_no_checkpoint
    from sisrm.training.data import Photos
    from sisrm.training.loop import LoopSettings, train

    output = Path(args.output)
    for flag in ("steps", "batch", "accumulation", "crop"):
        if getattr(args, flag) is not None:
            require_integer(f"--{flag}", getattr(args, flag), 1, 10**9)
    optimizer = args.optimizer or recipe.optimizer
    if optimizer == "muon" and args.mixed_precision == "fp16":
        raise ParameterError("--mixed-precision", "fp16", "bf16 or no with muon, whose two optimisers share no scale")
    head_only = args.stage == "labels" and args.head_only
    if not (args.resume or head_only):
        require_no_checkpoint(output)
    with share.main_first():
        source = start_folder(model, output, args.resume, write=share.is_main)
    if head_only:
        from sisrm.training.label_head import refit

        if not share.is_main:
            return 0
        loss = refit(
            source, output / "model", Photos(args.data, tuple(args.exclude_sources)), args.crop or 384, args.seed
        )
        print(f"labels: cross-entropy {loss:.4g}")
        return 0
    photos = Photos(args.data, tuple(args.exclude_sources))
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        stage = build_stage(args, source, photos, recipe)
    settings = LoopSettings(
        output=str(output),
        steps=args.steps or recipe.steps,
        batch=args.batch or recipe.batch,
        accumulation=args.accumulation,
        optimizer=optimizer,
        learning_rate=args.learning_rate or recipe.learning_rate,
        warmup=recipe.warmup,
        final_rate=recipe.final_rate,
        minutes=args.minutes,
        ema_decay=args.ema,
        seed=args.seed,
        workers=args.workers,
        checkpoint_minutes=recipe.checkpoint_minutes if args.checkpoint_minutes is None else args.checkpoint_minutes,
        mixed_precision=args.mixed_precision,
        resume=args.resume,
    )
    figures = train(stage, photos, settings)
    if share.is_main:
        print(f"{args.stage}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    return 0


def start_folder(model: str, output: Path, resume: bool, write: bool = True) -> Path:
    """The folder to start from; OUTPUT/model gets a copy of it, in which the stage then replaces the components it trains.

    Args:
        model: a preset's name or a pipeline folder. output: the run folder. resume: OUTPUT/model is there already.
        write: False where another process makes the copy.
    """
    import torch

    from sisrm.pipeline import SISRMPipeline
    from sisrm.presets import PRESETS, check_folder

    source = PRESETS[model].folder() if model in PRESETS else Path(model)
    check_folder(source)
    target = output / "model"
    if write and not resume and source.resolve() != target.resolve():
        # saved anew rather than copied: a bundle's weights are split over several files, which would outlive their replacement
        SISRMPipeline.from_pretrained(str(source), local_files_only=True, dtype=torch.float32).save_pretrained(target)
    return source


def build_stage(args: argparse.Namespace, source: Path, photos, recipe: Recipe):
    """The stage's networks from a pipeline folder, in float32, with gradient checkpointing where that was asked for.

    Raises ParameterError for a recipe that is for another kind of pipeline.
    """
    stage = _build_stage(args, source, photos, recipe)
    if args.gradient_checkpointing:
        stage.checkpoint_gradients()
    return stage


def _build_stage(args: argparse.Namespace, source: Path, photos, recipe: Recipe):
    import torch

    from sisrm.evaluation.teacher import load_teacher
    from sisrm.pipeline import SISRMPipeline
    from sisrm.training.autoencoder import AutoencoderStage
    from sisrm.training.backbone import BackboneStage
    from sisrm.training.finishing import FinishingStage
    from sisrm.training.it2ic import It2icStage
    from sisrm.training.sape import LabelsStage, SapeStage
    from sisrm.training.segmenter import SegmenterStage
    from sisrm.training.teacher_answers import TeacherAnswers

    pipe = SISRMPipeline.from_pretrained(str(source), use_safetensors=True, local_files_only=True, dtype=torch.float32)
    if recipe.public_parts != (pipe.image_encoder is None):
        kinds = "sd for a pipeline that stands on Stable Diffusion's parts, compact for one with an image encoder"
        raise ParameterError("--preset", "sd" if recipe.public_parts else "compact", kinds)
    teacher = load_teacher(args.teacher) if args.teacher else None
    crop = args.crop or recipe.crop
    options = {**recipe.options, **({"crop": crop} if crop else {})}
    match args.stage:
        case "autoencoder":
            return AutoencoderStage(pipe.vae, **options)
        case "segmenter":
            return SegmenterStage(pipe.segmenter, teacher and TeacherAnswers(teacher, photos), **options)
        case "labels":
            return LabelsStage(pipe, **options)
        case "sape":
            return SapeStage(pipe, **options)
        case "backbone":
            return BackboneStage(pipe, **options)
        case "it2ic":
            return It2icStage(pipe, **options | ({"train_unet": False} if args.freeze_unet else {}))
    for name in ("feature", "adversarial", "spectrum"):
        weight = getattr(args, "features" if name == "feature" else name)
        if weight is not None:
            options[f"{name}_weight"] = weight
    if args.softness is not None:
        options["softness"] = args.softness
    return FinishingStage(pipe, teacher, **options | ({"train_unet": False} if args.freeze_unet else {}))
