"""Our own errors in Chinese, for the page. The library and scripts speak English; what has no entry here stays as it is."""

from __future__ import annotations

import re

from sisrm.errors import ImageError, ParameterError, SISRMError

# What an image is refused for, and what is accepted for a parameter: the English words, and the Chinese ones.
_REASONS = (
    (r"(\d+) x (\d+) pixels are too many; at most ([\d,]+) are accepted", r"\1 × \2 像素过多，最多 \3 像素"),
    (r"(\d+) x (\d+) pixels are too few; each side needs at least (\d+)", r"\1 × \2 像素过少，每边至少 \3 像素"),
    (r"(\d+) x (\d+) pixels are too long and narrow; at most (\d+):1 is accepted", r"\1 × \2 像素过于狭长，长宽比最多 \3:1"),
    (r"too many pixels", "像素过多"),
    (r"the file is empty", "文件是空的"),
    (r"this is not a file", "这不是文件"),
    (r"the file has more than (\d+) MB", r"文件超过 \1 MB"),
    (r"there is no such file", "文件已不存在，请重新上传"),
    (r"the file holds far more data than a picture of its size needs", "文件中的数据远多于该尺寸图像所需"),
    (r"the image data is damaged or incomplete", "图像数据已损坏或不完整"),
    (r"the image header is damaged.*", "图像文件头已损坏"),
    (r"the image has more than (\d+) scans; save it again as a plain JPEG", r"图像的扫描数超过 \1，请另存为普通 JPEG"),
    (r"this is a camera's raw file; export it as JPEG, PNG or TIFF first", "这是相机的 RAW 文件，请先导出为 JPEG、PNG 或 TIFF"),
    (r".*that can be read \((.*)\)", r"这不是可以读取的图像（\1）"),
    (r"pixels of the kind (\S+) cannot be read as colours", r"无法读取 \1 类型的像素颜色"),
    (r"grey values must lie between 0 and (\d+)", r"灰度值须在 0 到 \1 之间"),
)
_ACCEPTED = (
    (r"a whole number from (\S+) to (\S+)", r"\1 到 \2 的整数"),
    (r"a number from (\S+) to (\S+)", r"\1 到 \2 的数"),
    (r"png for a result of more than ([\d,]+) pixels on a side", r"结果每边超过 \1 像素时只能用 png"),
    (r"names among the 150 ADE20K classes.*", "150 个 ADE20K 类别名称之一，例如 sky、tree、building"),
    (r"an uploaded image file.*", "上传的图像文件"),
    (r"at most ([\d,]+) characters", r"最多 \1 个字符"),
)
_MEMORY = (
    (
        r"there is not enough memory for (\d+) x (\d+) pixels, even in tiles of (\d+); a smaller picture may fit",
        r"内存不足以处理 \1 × \2 像素，边长 \3 的分块也不行；请试小一点的图像",
    ),
    (r"there is not enough memory for this picture; a smaller one may fit", "内存不足以处理这张图；请试小一点的图像"),
)


def told(error: SISRMError, lang: str) -> str:
    """What a visitor reads of an error.

    Args:
        error: raised on purpose.
        lang: "en" or "zh".
    """
    if lang == "zh":
        if isinstance(error, ImageError) and (reason := _chinese(error.reason, _REASONS)) is not None:
            return f"{error.source}：{reason}"
        if isinstance(error, ParameterError) and (accepted := _chinese(error.accepted, _ACCEPTED)) is not None:
            return f"{error.name} 的值无效；可接受：{accepted}"
        if (short := _chinese(str(error), _MEMORY)) is not None:
            return short
    return str(error)


def _chinese(words: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, chinese in table:
        if (found := re.fullmatch(pattern, words)) is not None:
            return found.expand(chinese)
    return None
