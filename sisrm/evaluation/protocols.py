"""The named protocols of `evaluate`: which pairs a published table rests on."""

from __future__ import annotations

import logging
from pathlib import Path

from PIL import Image

from sisrm.errors import ImageError, ParameterError
from sisrm.evaluation.pairs import SCALE, PairFolder
from sisrm.images import read_image

LOW_SIDE = 128
"""Width and height of the LR images of both published protocols; HR has 4 times as much."""

logger = logging.getLogger(__name__)


class RealSR(PairFolder):
    """Real camera pairs (Cai et al., ICCV 2019) as StableSR crops them: DIR/HR of 512 x 512, DIR/LR of 128 x 128.

    Args:
        folder, limit: as of PairFolder.

    Raises:
        ParameterError, ImageError: as PairFolder, all at once before anything runs; also where LR has another size.
    """

    protocol = "realsr"

    def __init__(self, folder: Path, limit: int | None = None):
        super().__init__(folder, limit=limit)
        for name in self.names:
            path = self._low_path(name)
            size = read_image(path, source=str(path)).size
            if size != (LOW_SIDE, LOW_SIDE):
                raise ImageError(
                    path,
                    f"{size[0]} x {size[1]} pixels; --protocol realsr takes StableSR's crops, LR of {LOW_SIDE} x "
                    f"{LOW_SIDE} beside HR of {SCALE * LOW_SIDE} x {SCALE * LOW_SIDE}; --protocol folder takes any size",
                )


class Div2kVal(PairFolder):
    """DIV2K's validation photos, synthetic: shortest side to 512, centre crop of 512, SeeSR's degradation.

    The photos lie in DIR or in DIR/HR. The resize is Pillow's bicubic; a photo whose shortest side is below 512 is
    enlarged, as the rule says, and a warning names it.

    Args:
        folder, limit: as of PairFolder.
        degrade_seed: of the degradation.
    """

    protocol = "div2k-val"

    def __init__(self, folder: Path, degrade_seed: int = 0, limit: int | None = None):
        super().__init__(folder, degrade_seed, "seesr", limit)

    def making(self) -> dict[str, object]:
        side = SCALE * LOW_SIDE
        return super().making() | {"reference": f"shortest side to {side} (bicubic), centre crop of {side}"}

    def _reference_folder(self) -> Path:
        return self.folder / "HR" if (self.folder / "HR").is_dir() else self.folder

    def _cut(self, name: str, reference: Image.Image) -> Image.Image:
        side, shortest = SCALE * LOW_SIDE, min(reference.size)
        if shortest < side:
            logger.warning("%s: %d x %d pixels are enlarged to make a reference", name, *reference.size)
        width, height = (max(side, round(length * side / shortest)) for length in reference.size)
        left, top = (width - side) // 2, (height - side) // 2
        resized = reference.resize((width, height), Image.Resampling.BICUBIC)
        return resized.crop((left, top, left + side, top + side))


PROTOCOLS = (PairFolder.protocol, RealSR.protocol, Div2kVal.protocol)
"""The names that --protocol accepts."""


def open_pairs(
    protocol: str, folder: Path, degrade_seed: int | None = None, degradation: str = "seesr", limit: int | None = None
) -> PairFolder:
    """The pairs of a protocol.

    Args:
        protocol: one of PROTOCOLS.
        folder, degrade_seed, degradation, limit: see PairFolder. The published protocols fix some of them; div2k-val
            takes seed 0 where none is given.

    Raises:
        ParameterError: no such protocol, or it does not take the setting; and what the protocol itself raises.
    """
    if protocol not in PROTOCOLS:
        raise ParameterError("--protocol", protocol, f"one of {', '.join(PROTOCOLS)}")
    if protocol == RealSR.protocol:
        if degrade_seed is not None:
            raise ParameterError("--degrade", degrade_seed, "nothing with --protocol realsr: its LR images are real")
        return RealSR(folder, limit)
    if protocol == Div2kVal.protocol:
        if degradation != "seesr":
            raise ParameterError("--degradation", degradation, "seesr with --protocol div2k-val")
        return Div2kVal(folder, degrade_seed or 0, limit)
    return PairFolder(folder, degrade_seed, degradation, limit)
