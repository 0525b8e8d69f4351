"""Every setting of a run: its name, type, range and default, and the check of a value that came over the wire.

`Settings` is the one list. Sliders, endpoints, share links and the settings kept in a result all read it, so a setting that is added here
is everywhere, and what is refused in one place is refused in all.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sisrm.errors import ParameterError
from sisrm.labels import CLASS_NAMES, index_of
from sisrm.pipeline import COLOR_FIXES
from sisrm.tiling import LARGEST_TILE, SMALLEST_TILE

LONGEST_NAME = 80
"""Characters of a label in free text, at most."""


@dataclass(frozen=True)
class Limit:
    """A number from `low` to `high`; `step` is the slider's, and from 1 on it asks for whole numbers."""

    low: float
    high: float
    step: float

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are accepted."""
        return self.step >= 1

    @property
    def accepted(self) -> str:
        """In words."""
        return f"{'a whole number' if self.whole else 'a number'} from {self.low:g} to {self.high:.10g}"

    def check(self, name: str, value: object, free_text: bool = False) -> int | float:
        """The value, as int or float.

        Raises:
            ParameterError: not a number, not finite, outside the range, or not whole where it must be.
        """
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # NaN is in no range, so it is refused here as well.
        if not number or not self.low <= value <= self.high or (self.whole and value != int(value)):
            raise ParameterError(name, value, self.accepted)
        return int(value) if self.whole else float(value)


@dataclass(frozen=True)
class Switch:
    """True or false."""

    accepted = "true or false"

    def check(self, name: str, value: object, free_text: bool = False) -> bool:
        """The value. Raises ParameterError for anything that is no boolean, 0 and 1 included."""
        if not isinstance(value, bool):
            raise ParameterError(name, value, self.accepted)
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few words or numbers."""

    options: tuple[str, ...] | tuple[int, ...]

    @property
    def accepted(self) -> str:
        """In words."""
        return "one of " + ", ".join(map(str, self.options))

    def check(self, name: str, value: object, free_text: bool = False) -> str | int:
        """The option. Raises ParameterError for anything else."""
        known = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        if not known or value not in self.options:
            raise ParameterError(name, value, self.accepted)
        return self.options[self.options.index(value)]


@dataclass(frozen=True)
class Names:
    """At most `most` labels: names of the 150 classes, or any words where the text encoder reads free text."""

    most: int

    @property
    def accepted(self) -> str:
        """In words."""
        return f"a list of at most {self.most} class names"

    def check(self, name: str, value: object, free_text: bool = False) -> tuple[str, ...]:
        """The names, each once, in their order and spelt as in `sisrm.labels.CLASS_NAMES`; None is an empty list.

        Raises:
            ParameterError: no list, too many, or a name that is not accepted.
        """
        if value is None:
            return ()
        if not isinstance(value, (list, tuple)) or len(value) > self.most:
            raise ParameterError(name, value, self.accepted)
        return tuple(dict.fromkeys(self._check_one(name, entry, free_text) for entry in value))

    def _check_one(self, name: str, entry: object, free_text: bool) -> str:
        if not isinstance(entry, str):
            raise ParameterError(name, entry, self.accepted)
        try:
            return CLASS_NAMES[index_of(entry)]
        except ParameterError as error:
            if not free_text:
                raise ParameterError(name, entry, error.accepted) from None
        words = entry.strip()
        if not words or len(words) > LONGEST_NAME or not words.isprintable():
            raise ParameterError(name, entry, f"words of 1 to {LONGEST_NAME} characters")
        return words


Control = Limit | Switch | Choice | Names

STEPS = Limit(1, 20, 1)
GUIDANCE_SCALE = Limit(1, 8, 0.1)
TOP_K = Limit(1, 10, 1)
SEED = Limit(0, 2**32 - 1, 1)


def _setting(control: Control, argument: str | None = None, **default: Any) -> Any:
    return field(metadata={"control": control, "argument": argument}, **default)


@dataclass(frozen=True)
class Settings:
    """A checked request.

    Attributes:
        steps, guidance_scale, top_k, start_strength, tile_size: as in `SISRMPipeline.__call__`.
        mff, sca, sape: the modules of the method; off takes one out.
        seed: of the start noise.
        labels: names that replace the predicted ones; empty: the predicted ones.
        extra_labels: names put before the others. muted_labels: names taken out, whoever gave them.
        detail_strength, controlnet_conditioning_scale, color_fix, color_fix_strength: as in `SISRMPipeline.__call__`.
        output_scale: 4, or 2 or 3: the result made smaller by an antialiased (Lanczos) filter.
    """

    steps: int = _setting(STEPS, "num_inference_steps")
    guidance_scale: float = _setting(GUIDANCE_SCALE, "guidance_scale")
    top_k: int = _setting(TOP_K, "top_k")
    mff: bool = _setting(Switch(), "use_mff")
    seed: int = _setting(SEED)
    sca: bool = _setting(Switch(), "use_sca", default=True)
    sape: bool = _setting(Switch(), "use_sape", default=True)
    labels: tuple[str, ...] = _setting(Names(10), default=())
    extra_labels: tuple[str, ...] = _setting(Names(10), default=())
    muted_labels: tuple[str, ...] = _setting(Names(20), default=())
    start_strength: float = _setting(Limit(0.01, 1, 0.01), "start_strength", default=1.0)
    detail_strength: float = _setting(Limit(0, 2, 0.05), "detail_strength", default=1.0)
    controlnet_conditioning_scale: float = _setting(Limit(0, 2, 0.05), "controlnet_conditioning_scale", default=1.0)
    color_fix: str = _setting(Choice(COLOR_FIXES), "color_fix", default="wavelet")
    color_fix_strength: float = _setting(Limit(0, 1, 0.05), "color_fix_strength", default=1.0)
    tile_size: int = _setting(Limit(SMALLEST_TILE, LARGEST_TILE, 32), "tile_size", default=256)
    output_scale: int = _setting(Choice((2, 3, 4)), default=4)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `SISRMPipeline.__call__`, all but the generator."""
        named = {entry.metadata["argument"]: getattr(self, entry.name) for entry in fields(self)}
        named.pop(None)
        words = list(dict.fromkeys((*self.extra_labels, *self.labels)))
        return {
            **named,
            "labels": words or None,
            "extend_labels": not self.labels,
            "muted_labels": list(self.muted_labels) or None,
        }

    def label_arguments(self) -> dict[str, Any]:
        """Those of `arguments` that say which labels are in the prompt, as `SISRMPipeline.segment` takes them."""
        arguments = self.arguments()
        return {name: arguments[name] for name in ("top_k", "labels", "extend_labels", "muted_labels")}

    @classmethod
    def of_call(cls, pipe, arguments: Mapping[str, Any], seed: int) -> Settings:
        """The settings that stand for a call of `SISRMPipeline.__call__`, so that its result can be opened in the app; not checked, as a
        call may ask for more than the app offers.

        Args:
            pipe: whose defaults fill in what `arguments`, the call's keyword arguments, leave out.
            seed: of the result.
        """
        names = {entry.metadata["argument"]: entry.name for entry in fields(cls)}
        given = {names[argument]: value for argument, value in arguments.items() if argument and argument in names}
        words = tuple(arguments.get("labels") or ())
        given["extra_labels" if arguments.get("extend_labels") else "labels"] = words
        given["muted_labels"] = tuple(arguments.get("muted_labels") or ())
        return replace(default_settings(pipe), **given, seed=seed)

    def as_json(self) -> dict[str, Any]:
        """Name -> value, with lists in place of tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


CONTROLS: dict[str, Control] = {entry.name: entry.metadata["control"] for entry in fields(Settings)}
"""Name of a setting -> what is accepted for it, in the order of `Settings`."""


def default_settings(pipe) -> Settings:
    """The defaults that the weights carry, with every module on; the seed is 0."""
    values = {"steps": pipe.config.num_inference_steps, **{name: pipe.config[name] for name in CARRIED}}
    return Settings(mff=True, seed=0, **{name: CONTROLS[name].check(name, value) for name, value in values.items()})


CARRIED = ("guidance_scale", "top_k", "start_strength", "tile_size")
"""Settings whose default travels with the weights, under the same name; so does that of `steps`, as num_inference_steps."""


def check_settings(values: Mapping[str, object], defaults: Settings, free_text: bool = False) -> Settings:
    """Check what a browser, a script, a share link or a file sent.

    Args:
        values: name of a setting -> value as it came. A name that is missing takes its default, but a missing seed, or None, a fresh one.
        defaults: of `default_settings`.
        free_text: whether labels may be other words than the 150 class names.

    Raises:
        ParameterError: naming the first setting that is not accepted, and what would be.
    """
    for name in values:
        if name not in CONTROLS:
            raise ParameterError("settings", name, "names of settings: " + ", ".join(CONTROLS))
    checked = {
        name: control.check(name, values[name], free_text)
        for name, control in CONTROLS.items()
        if name in values and not (name == "seed" and values[name] is None)
    }
    return replace(defaults, **{"seed": secrets.randbelow(SEED.high + 1), **checked})


def presets(defaults: Settings) -> dict[str, dict[str, Any]]:
    """Named settings to begin with: "faithful", "balanced" (the weights' defaults) and "vivid". All set the same names, so that choosing
    another one undoes the first.

    Faithful draws less than the model would; vivid draws more and starts further from the photo.
    """

    def preset(detail: float, start: float, guidance: float) -> dict[str, Any]:
        scale = 1 + guidance * (
            defaults.guidance_scale - 1
        )  # without guidance (1) it stays off: it would take twice as long
        return {
            "start_strength": round(min(1.0, max(0.01, start * defaults.start_strength)), 2),
            "detail_strength": detail,
            "guidance_scale": round(min(GUIDANCE_SCALE.high, scale), 1),
        }

    return {"faithful": preset(0.5, 1.0, 0.7), "balanced": preset(1.0, 1.0, 1.0), "vivid": preset(1.35, 2.0, 1.4)}
