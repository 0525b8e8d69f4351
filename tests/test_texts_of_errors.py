"""Errors in the visitor's language."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import tiny_pipe
from PIL import Image

from sisrm.errors import ImageError, OutOfMemory, ParameterError, SISRMError
from sisrm.images import read_photo
from sisrm.ui.handlers import Handlers
from sisrm.ui.model import NO_MEMORY
from sisrm.ui.results import require_room
from sisrm.ui.texts_of_errors import told

SOURCES = [Path(__file__).parent.parent / "sisrm" / f"{name}.py" for name in ("images", "decoding", "metadata", "conversion")]
CHINESE = re.compile("[\u4e00-\u9fff]")


def reasons() -> list[str]:
    """What images are refused for, with numbers in the places of values."""
    found = []
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ImageError":
                reason = node.args[1]
                if isinstance(reason, ast.Constant):
                    found.append(reason.value)
                elif isinstance(reason, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "7" for part in reason.values]
                    found.append("".join(parts))
    return found


def test_every_reason_that_an_image_is_refused_for_has_chinese_words():
    assert len(reasons()) > 12
    for reason in reasons():
        chinese = told(ImageError("a.png", reason), "zh")
        assert CHINESE.search(chinese) and chinese.startswith("a.png："), reason
        assert reason.count("7") <= chinese.count("7") or "can be read" in reason, (reason, chinese)
        assert told(ImageError("a.png", reason), "en") == f"a.png: {reason}"


def test_a_photo_is_refused_in_chinese(tmp_path):
    Image.new("L", (9, 40)).save(tmp_path / "a.png")
    with pytest.raises(ImageError) as refused:
        read_photo(tmp_path / "a.png")
    assert told(refused.value, "zh") == "a.png：9 × 40 像素过少，每边至少 16 像素"
    (tmp_path / "b.png").write_bytes(b"%PDF-1.7")
    with pytest.raises(ImageError) as refused:
        read_photo(tmp_path / "b.png")
    assert "不是可以读取的图像" in told(refused.value, "zh")


@pytest.mark.parametrize(
    "given, words",
    [
        ({"steps": 99}, "steps 的值无效；可接受：1 到 20 的整数"),
        ({"guidance_scale": float("nan")}, "guidance_scale 的值无效；可接受：1 到 8 的数"),
        ({"extra_labels": ["no such thing"]}, "150 个 ADE20K 类别名称之一"),
    ],
)
def test_a_setting_is_refused_in_chinese(given, words):
    with pytest.raises(ParameterError) as refused:
        Handlers(tiny_pipe(), {}).check(given)
    assert words in told(refused.value, "zh") and told(refused.value, "en") == str(refused.value)


def test_formats_memory_and_what_has_no_chinese_words():
    with pytest.raises(ParameterError) as refused:
        require_room("webp", (5000, 20))
    assert told(refused.value, "zh") == "format 的值无效；可接受：结果每边超过 16,383 像素时只能用 png"
    tiles = "there is not enough memory for 900 x 700 pixels, even in tiles of 64; a smaller picture may fit"
    assert "900 × 700" in told(OutOfMemory(tiles), "zh") and CHINESE.search(told(OutOfMemory(NO_MEMORY), "zh"))
    assert told(SISRMError("something else"), "zh") == "something else"


def test_the_app_answers_in_the_language_asked_for(web):
    for lang, words in (("zh-CN", "1 到 20 的整数"), ("en", "a whole number from 1 to 20")):
        headers = {"Accept-Language": lang}
        body = {"data": [None, 99, 1, 2, True, 1]}
        started = web.post("/gradio_api/call/upscale", json=body, headers=headers).json()["event_id"]
        answer = web.get(f"/gradio_api/call/upscale/{started}", headers=headers).text
        assert words in json.loads(answer.split("data: ", 1)[1])["error"]
