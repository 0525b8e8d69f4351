"""`evaluate DIR`: several methods over the same image pairs, the same metrics for each, one table.

The model runs through the same pipeline call as the app and the command line, so its figures are those that a user
gets. Finished rows are kept (`cache`), and several processes may share the images (`parallel`); neither changes a
figure.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from sisrm.errors import SISRMError
from sisrm.evaluation import report
from sisrm.evaluation.cache import RowCache
from sisrm.evaluation.identity import files_digest, module_digest, settings_digest, versions
from sisrm.evaluation.judge import Judge
from sisrm.evaluation.methods import Method
from sisrm.evaluation.pairs import Pair, PairFolder
from sisrm.evaluation.parallel import Share
from sisrm.evaluation.perceptual import LIBRARIES, PerceptualMetrics
from sisrm.evaluation.teacher import Teacher

logger = logging.getLogger(__name__)


def evaluate(
    pairs: PairFolder,
    output: Path,
    methods: dict[str, Method],
    *,
    model: dict | None = None,
    teacher: Teacher | None = None,
    perceptual: PerceptualMetrics | None = None,
    save_images: bool = False,
    timed: bool = False,
    share: Share | None = None,
) -> dict:
    """Run every method over every pair and write per_image.csv, summary.json and table.md.

    A row that an earlier run with the same settings has left in `output/cache` is not computed again.

    Args:
        pairs: what to evaluate on.
        output: folder for the three files; made when missing.
        methods: name -> method, in the table's order; see `sisrm.evaluation.table.table_methods`.
        model: what the summary says of the model; see `sisrm.evaluation.methods.describe_model`.
        teacher: adds the two teacher metrics; None leaves them out.
        perceptual: adds pyiqa's metrics; None leaves them out.
        save_images: also write the results that are computed here below `output`, in a folder for each method.
        timed: adds the time of a picture; a finished row has that of the run which computed it.
        share: this process's part of the images; None for all. The main process writes the three files.

    Returns:
        The content of summary.json, in every process: protocol, per method the mean of every metric, settings,
        definitions and versions.

    Raises:
        ParameterError, ImageError: a folder or an image is missing or does not fit.
        SISRMError: the processes could not measure the same metrics.
    """
    share = share or Share()
    packages = [*(LIBRARIES if perceptual and perceptual.names else ()), *(
        name for method in methods.values() for name in method.libraries
    )]  # fmt: skip
    used_versions = versions(packages)
    measured = {
        "pairs": pairs.making(),
        "teacher": None if teacher is None else module_digest(teacher),
        "perceptual": None if perceptual is None else perceptual.describe(),
        "versions": used_versions,
        # bfloat16 on a CPU adds up in another order with other threads, which shows in the fifth digit.
        "cpu_threads": torch.get_num_threads(),
        **({"timed": True} if timed else {}),
    }
    caches = {
        name: RowCache(output / "cache", {"settings": method.settings, **method.identity, **measured})
        for name, method in methods.items()
    }
    rows = []
    stopwatch = _Stopwatch() if timed else None
    mine = share.mine(range(len(pairs)))
    logger.info("process %d of %d has %d of %d images", share.index, share.count, len(mine), len(pairs))
    for index in tqdm(mine, unit="image", disable=None if share.is_main else True):
        work = _Image(pairs, pairs.names[index], teacher, perceptual, stopwatch)
        for name, method in methods.items():
            saved = output / name / f"{work.name}.png" if save_images and method.computed else None
            rows.append((index, {"image": work.name, "method": name, **work.row(method, caches[name], saved)}))
    # Python's sort is stable: the methods of one image keep their order.
    rows = [row for _, row in sorted(share.gather(rows), key=lambda entry: entry[0])]
    if len({tuple(row) for row in rows}) > 1:
        raise SISRMError("the processes did not measure the same metrics; a download may have failed in one of them")
    summary = report.summary_of(
        rows,
        list(methods),
        protocol=pairs.describe(),
        settings={name: method.settings for name, method in methods.items()},
        skipped={} if perceptual is None else perceptual.skipped,
        model=model,
        versions=used_versions,
    )
    if share.is_main:
        report.write(output, rows, summary)
    return summary


class _Image:
    """One image of an evaluation. Its pair is read, and its reference's features computed, only when a row needs it."""

    def __init__(
        self,
        pairs: PairFolder,
        name: str,
        teacher: Teacher | None,
        perceptual: PerceptualMetrics | None,
        stopwatch: _Stopwatch | None,
    ):
        self.pairs, self.name, self.teacher, self.perceptual = pairs, name, teacher, perceptual
        self.stopwatch = stopwatch
        self.inputs = files_digest(pairs.sources(name))
        self._pair = self._judge = None

    def row(self, method: Method, cache: RowCache, saved: Path | None) -> dict[str, float]:
        """The metrics of one method, from the cache where they are there.

        Args:
            saved: where to write the result; None does not.
        """
        # The name stands in it because the degradation's seed depends on it.
        inputs = settings_digest([self.name, self.inputs, files_digest(method.sources(self.name))])
        values = cache.read(self.name, inputs)
        if values is not None and (saved is None or saved.is_file()):
            return values
        if self._pair is None:
            self._pair = self.pairs.pair(self.name)
            self._judge = Judge(self._pair.reference, self.teacher, self.perceptual)
        seconds = None
        if self.stopwatch is None:
            result = method(self._pair)
        else:
            result, seconds = self.stopwatch(method, self._pair)
        if saved is not None:
            saved.parent.mkdir(parents=True, exist_ok=True)
            result.save(saved)
        values = self._judge(result)
        if seconds is not None:
            values["seconds"] = seconds
        cache.write(self.name, inputs, values)
        return values


class _Stopwatch:
    """Computes results and times them; the first of a method once more before, so that its networks are warm."""

    def __init__(self):
        self._warm: set[int] = set()

    def __call__(self, method: Method, pair: Pair) -> tuple[Image.Image, float]:
        """(result, seconds); NaN where it is only read."""
        if method.computed and id(method) not in self._warm:
            self._warm.add(id(method))
            method(pair)
        started = time.perf_counter()
        result = method(pair)
        return result, time.perf_counter() - started if method.computed else math.nan
