"""The pipeline's steps for pictures in tiles: image branch, what IT2IC reads of each tile, and the finished picture.

For a picture of one tile each of them is the plain step. Prompt, class map and M come from the whole picture; E_m comes from each tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sisrm.color import Statistics
from sisrm.image_encoder import ImageEncoding
from sisrm.remembering import once
from sisrm.resize import LATENT_SCALE, SCALE, enlarge
from sisrm.tiling import Blend, Canvas, Tile, Tiles

Report = Callable[[int, int], None]


@dataclass
class Conditions:
    """What IT2IC reads beside the latents. tokens: E_m's (B, L_m, C) or None without SCA, of the whole picture; masks: M, (B, 1, 4h, 4w)
    bool, or None without MFF; encoding: from `encode_tiles`; lr_image: padded."""

    tokens: torch.Tensor | None
    masks: torch.Tensor | None
    encoding: ImageEncoding
    lr_image: torch.Tensor


class TiledSteps:
    """Mixed into SISRMPipeline."""

    def encode_tiles(self, padded: torch.Tensor, tiles: Tiles, report: Report | None = None) -> ImageEncoding:
        """`encode_image` (eq 4) of the padded LR image. Of several tiles only what denoising reads at latent resolution is kept:
        the latents, and the condition where there is an image encoder; the rest is None and is made again where it is needed."""
        blends: dict[str, Blend] = {}

        def start() -> dict[str, Blend]:
            blends.clear()
            return blends

        def work(blends: dict, tile: Tile) -> None:
            encoding = self.encode_once(tiles.wide(tile).of(padded))
            if len(tiles) == 1:
                blends["all"] = encoding
                return
            parts = {"latents": encoding.latents}
            if self.image_encoder is not None:
                parts["condition"] = encoding.condition
            for name, part in parts.items():
                own = tiles.narrow(part, tile, LATENT_SCALE)
                blends.setdefault(name, Blend(tiles)).add(tile, own)

        tiles.run(start, work, report)
        if "all" in blends:
            return blends["all"]
        condition = blends["condition"].whole if "condition" in blends else None
        return ImageEncoding(features=None, latents=blends["latents"].whole, condition=condition, lr_image=None)

    def encode_once(self, padded: torch.Tensor) -> ImageEncoding:
        """`encode_image` of a tile; decoding and previews read what denoising's start was made from, as far as memory goes."""
        return once("image branch", padded, lambda: self.encode_image(padded))

    def tile_conditions(self, conditions: Conditions, tiles: Tiles) -> Callable[[list[Tile]], tuple]:
        """-> a function that gives (segmentation tokens, condition, mask) of tiles, as `denoise` takes them: joined along the batch."""
        read: dict[Tile, torch.Tensor] = {}  # E_m of a tile is the same at every step

        def of(tile: Tile) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
            tokens, mask, encoding = conditions.tokens, None, conditions.encoding
            if tokens is not None and len(tiles) > 1:
                if tile not in read:
                    read[tile] = self.reading_of(tile.of(conditions.lr_image)).tokens
                tokens = read[tile]
            if conditions.masks is not None:
                own = tile.of(conditions.masks, SCALE)
                below, beside = SCALE * tile.height - own.shape[-2], SCALE * tile.width - own.shape[-1]
                mask = own
                if below or beside:
                    padding = (0, beside, 0, below)
                    mask = once("padded M", own, lambda: F.pad(own.float(), padding, mode="replicate") > 0)
            condition = encoding.condition
            if condition is None:
                part = tile.of(conditions.lr_image)
                condition = once("enlarged", part, lambda: enlarge(part))
            else:
                condition = tile.of(condition, condition.shape[-1] / tiles.width)
            return tokens, condition, mask

        def of_all(group: list[Tile]) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
            if len(group) == 1:
                return of(*group)
            return tuple(_joined(group, parts) for parts in zip(*map(of, group)))

        return of_all

    def denoise_tiles(
        self,
        latents: torch.Tensor,
        prompt_embeds: torch.Tensor,
        of_tiles: Callable[[list[Tile]], tuple],
        tiles: Tiles,
        report: Report | None = None,
        **settings,
    ) -> torch.Tensor:
        """`guided_denoise` of the whole picture's latents (B, C, h, w): of its tiles, some at once, blended into one prediction.

        of_tiles: from `tile_conditions`. settings: the remaining arguments of `guided_denoise`.
        """

        def predict(group: list[Tile]) -> torch.Tensor:
            words, count = prompt_embeds, len(group)
            if count > 1:
                branches = len(words) // len(latents)
                words = once(
                    ("of tiles", count),
                    words,
                    lambda: torch.cat([branch.repeat(count, 1, 1) for branch in words.chunk(branches)]),
                )
            parts = torch.cat([tile.of(latents, LATENT_SCALE) for tile in group])
            return self.guided_denoise(parts, *of_tiles(group), prompt_embeds=words, **settings)

        return tiles.blend(predict, report)

    def finish_tiles(
        self,
        latents: torch.Tensor,
        lr_image: torch.Tensor,
        conditions: Conditions,
        tiles: Tiles,
        output_type: str,
        color_fix: str,
        strengths: tuple[float, float],
        report: Report | None = None,
    ):
        """Latents -> the finished picture in `output_type`: decoded, colours from the LR image (B, 3, h, w), faint texture taken back.

        strengths: of the colour fix and of the detail.
        Of several tiles each is decoded with its surroundings. AdaIN needs the statistics of the whole picture first, so it decodes twice.
        """
        size = tuple(SCALE * side for side in lr_image.shape[-2:])

        def decode(tile: Tile) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            """(decoded, LR image, LR image without its noise) of the tile and its surroundings, without the padding."""
            wide = tiles.wide(tile)
            encoding = conditions.encoding
            if len(tiles) > 1:
                encoding = self.encode_once(wide.of(conditions.lr_image))
            decoded = self.decode_latents(wide.of(latents, LATENT_SCALE), encoding)
            own = wide.of(lr_image)
            height, width = own.shape[-2:]
            return decoded[..., : SCALE * height, : SCALE * width], own, encoding.lr_image[..., :height, :width]

        def gather(gathered: Statistics, tile: Tile) -> None:
            decoded, _, clean = decode(tile)
            decoded, clean = (tiles.narrow(part, tile, SCALE) for part in (decoded, enlarge(clean)))
            weight = tiles.weight(tile, SCALE)[: decoded.shape[-2], : decoded.shape[-1]]
            gathered.add(decoded, clean, weight.to(decoded))

        statistics = None

        def start() -> Canvas:
            # A picture of one tile may turn out not to fit, and is begun again in several.
            nonlocal statistics
            if color_fix == "adain" and len(tiles) > 1 and statistics is None:
                statistics = tiles.run(Statistics, gather)
            return Canvas(tiles, len(lr_image), size, SCALE, output_type)

        def work(canvas: Canvas, tile: Tile) -> None:
            finished = self.finish_image(*decode(tile), color_fix, strengths[0], statistics, strengths[1])
            canvas.put(tile, tiles.narrow(finished, tile, SCALE))

        canvas = tiles.run(start, work, report)
        return canvas.result(lr_image.device)


def _joined(group: list[Tile], parts: tuple) -> torch.Tensor | None:
    """What is the same at every step, along the batch; None where the tiles have none of it."""
    return None if parts[0] is None else once(("joined", *group), parts[0], lambda: torch.cat(parts))
