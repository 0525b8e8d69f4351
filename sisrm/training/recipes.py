"""What each stage of each preset is trained with unless the command line says otherwise, one line a stage.

`sd` has the paper's settings (s3.2): LoRA of rank 8, 10,000 iterations, batches of 32, AdamW at a constant 1e-4, crops of
512 x 512 at the photos' own scale, SeeSR's degradation; Stable Diffusion's own weights stay as they are (s2.3). `compact` has its own,
what one GPU or a patient CPU would use; the model card says what the bundled weights used.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sisrm.errors import ParameterError


@dataclass(frozen=True)
class Recipe:
    """steps, batch (images per step, of all processes), learning_rate (its peak).

    crop: side in HR pixels; None: the stage's own. warmup: steps to the peak. final_rate: where the rate ends, as a share of the peak.
    optimizer: one of `OPTIMIZERS`. checkpoint_minutes: between checkpoints. public_parts: it is for a pipeline that stands on
    Stable Diffusion's parts. options: of the stage.
    """

    steps: int
    batch: int
    learning_rate: float
    crop: int | None = None
    warmup: int = 100
    final_rate: float = 0.02
    optimizer: str = "adamw"
    checkpoint_minutes: float = 4.0
    public_parts: bool = False
    options: dict[str, object] = field(default_factory=dict)


PAPER = {
    "steps": 10_000,
    "batch": 32,
    "learning_rate": 1e-4,
    "crop": 512,
    "warmup": 0,
    "final_rate": 1.0,
    "checkpoint_minutes": 30.0,  # one has 12 GB
    "public_parts": True,
}
PHOTOS_AS_THEY_ARE = {"scale": (1.0, 1.0), "degradations": (("seesr", 1.0),)}

RECIPES: dict[str, dict[str, Recipe]] = {
    "compact": {
        "autoencoder": Recipe(20_000, 16, 5e-4),
        "segmenter": Recipe(40_000, 16, 1e-3, optimizer="muon"),
        "labels": Recipe(2_000, 16, 3e-3),
        "sape": Recipe(10_000, 32, 1e-4),
        "backbone": Recipe(40_000, 32, 3e-4),
        "it2ic": Recipe(60_000, 16, 3e-4),
        "finishing": Recipe(40_000, 8, 1e-4),
    },
    "sd": {
        "sape": Recipe(**PAPER, options={"rank": 8, **PHOTOS_AS_THEY_ARE}),
        # low_share 0: timesteps from the whole schedule alike, as sampling starts at its top
        "it2ic": Recipe(**PAPER, options={"train_unet": False, "low_share": 0.0, **PHOTOS_AS_THEY_ARE}),
    },
}


def recipe_of(preset: str, stage: str) -> Recipe:
    """Raises ParameterError for a stage that the preset does not have."""
    recipes = RECIPES[preset]
    if stage not in recipes:
        raise ParameterError("STAGE", stage, f"{' or '.join(recipes)} with --preset {preset}")
    return recipes[stage]


def table() -> str:
    """All recipes, for people."""
    lines = ["defaults (crop -: the stage's own):", "  preset   stage         steps  batch   rate  crop  optimizer"]
    for preset, recipes in RECIPES.items():
        for stage, recipe in recipes.items():
            lines.append(
                f"  {preset:8} {stage:12} {recipe.steps:6}  {recipe.batch:5}  {recipe.learning_rate:5.0e}  "
                f"{recipe.crop or '-':>4}  {recipe.optimizer}"
            )
    lines.append(
        "  sd: constant rate, no warm-up, LoRA rank 8, the photos' own scale, SeeSR's degradation (the paper's s3.2)"
    )
    return "\n".join(lines)
