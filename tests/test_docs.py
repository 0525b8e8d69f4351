"""README says what is true: its files exist, its commands parse, its Python runs, its front matter fits a Space."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

from sisrm import decoding, images
from sisrm.cli import build_parser
from sisrm.training.command import STAGES
from sisrm.ui import guard, seats, serving, settings, storage

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language in ("", "bash", "sh")
    for line in block.splitlines()
    if line.startswith("python -m sisrm ")
]


def requirements() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {item.name: item for item in (Requirement(line) for line in lines if line and not line.startswith("#"))}


def test_front_matter_is_what_a_space_needs():
    facts = yaml.safe_load(TEXT.split("---\n")[1])
    assert facts["sdk"] == "gradio"
    assert requirements()["gradio"].specifier.contains(facts["sdk_version"])
    assert facts["python_version"].startswith("3.12.")
    assert (ROOT / facts["app_file"]).is_file()
    assert len(facts["short_description"]) <= 60
    # Apache-2.0 alone would promise more than the bundled weights' licence gives.
    assert facts["license"] == "other" and "non-commercial" in facts["license_name"]


def test_the_model_card_says_what_the_weights_are():
    card = (ROOT / "assets" / "compact" / "README.md").read_text(encoding="utf-8")
    facts = yaml.safe_load(card.split("---\n")[1])
    assert facts["library_name"] == "diffusers" and facts["pipeline_tag"] == "image-to-image"
    assert facts["license"] == "other" and "non-commercial" in facts["license_name"]
    for component in json.loads((ROOT / "assets" / "compact" / "model_index.json").read_text()):
        if (ROOT / "assets" / "compact" / component / "config.json").is_file() and component != "mff":
            assert f"| `{component}` |" in card, component


def test_the_limits_are_the_codes():
    table = dict(
        line.strip("| ").split(" | ", 1) for line in TEXT.split("## Limits")[1].splitlines() if line.startswith("| ")
    )
    numbers = {row: [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", text)] for row, text in table.items()}
    assert numbers["pixels in"][:1] == [images.MAX_PIXELS]
    assert numbers["shortest side, ratio of the sides"] == [images.MIN_SIDE, images.MAX_ASPECT, 1]
    assert numbers["file"] == [guard.MAX_UPLOAD_BYTES >> 20, decoding.MAX_FILE_BYTES >> 20]
    assert numbers["a request to the app"] == [guard.MAX_UPLOADS, guard.MAX_BODY_BYTES >> 20]
    steps, guidance, top_k = settings.STEPS, settings.GUIDANCE_SCALE, settings.TOP_K
    ranges = [int(end) for limit in (steps, guidance, top_k) for end in (limit.low, limit.high)]
    assert numbers["steps, guidance, top-k, labels in the app"] == [*ranges, top_k.high]
    assert numbers["waiting jobs"] == [serving.MAX_WAITING]
    assert numbers["jobs on the model at once"][:3] == [1, 1, seats.MOST]
    assert numbers["uploads and results on the server"] == [storage.KEEP_SECONDS // 3600, storage.MAX_MEGABYTES]


def test_every_file_it_names_exists():
    named = set(re.findall(r"`((?:sisrm|assets|examples|tests)/[\w./-]*)`", TEXT))
    named |= {target for target in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in target}
    named |= set(re.findall(r"`(LICENSE|CITATION\.cff|Makefile|app\.py)`", TEXT))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_parses(line):
    words = [list(STAGES)[0] if word == "STAGE" else word for word in shlex.split(line)[3:]]
    options = build_parser(with_training=True).parse_args(words)
    assert options.command == words[0]


def test_every_command_and_stage_is_shown():
    (commands,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    assert {line.split()[3] for line in COMMANDS} == set(commands)
    shown = [line.split()[4] for line in COMMANDS if line.split()[3] == "train"]
    stages = [stage for stage in shown if stage != "STAGE"]
    assert stages[: len(STAGES)] == list(STAGES) and set(stages) == set(STAGES)


def test_the_first_python_block_runs(tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    code = next(block for language, block in BLOCKS if language == "python")
    exec(compile(code, "README.md", "exec"), {})
    source = re.search(r'open\("(.+?)"\)', code).group(1)
    result = re.search(r'save\("(.+?)"\)', code).group(1)
    width, height = Image.open(source).size
    assert Image.open(result).size == (4 * width, 4 * height)


@pytest.mark.parametrize("name", ["README.md", "examples/README.md", "assets/compact/README.md"])
def test_no_placeholder_and_no_path_of_one_machine_is_left(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert (
        re.findall(r"@@\w*|\bT[O]DO\b|\bFIX[M]E\b|\bTBD\b|\bXXX\b|(?<![\w.])/(?:home|work|root|tmp|Users)/\S*", text)
        == []
    )
