"""`publish-space`: exactly the files that a Space needs go, nothing secret, and nothing at all in a dry run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from sisrm.cli import main
from sisrm.commands import publish_space
from sisrm.errors import ParameterError
from sisrm.presets import PRESETS
from sisrm.public_parts import PINS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout of its own, with one file that git does not track."""
    for name in ("app.py", "README.md", "sisrm/a.py", "assets/w[1].bin", "tests/test_a.py", ".ci/run", "secret.env"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("---\ntitle: SISRM\nsdk: gradio\n---\n\n# SISRM\n\n---\n" if name == "README.md" else name)
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "app.py", "README.md", "sisrm", "assets", "tests", ".ci"], check=True)
    monkeypatch.setattr(publish_space, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    """What would have reached the hub; it is outside this machine."""
    calls = []
    for name in ("create_repo", "add_space_variable", "upload_folder"):

        def record(self, *args, _name=name, **options):
            if "folder_path" in options:  # it is gone when this returns
                folder = Path(options["folder_path"])
                files = [path for path in folder.rglob("*") if path.is_file()]
                options = {**options, "sent": {str(path.relative_to(folder)): path.read_text() for path in files}}
            calls.append((_name, args, options))
            return SimpleNamespace(commit_url="https://huggingface.co/spaces/someone/sisrm/commit/1")

        monkeypatch.setattr(huggingface_hub.HfApi, name, record)
    return calls


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_dry_run_lists_what_a_space_needs_and_sends_nothing(hub, capsys):
    assert main(["publish-space", "someone/sisrm", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[-1] for line in lines[:-3]}
    assert {
        "app.py",
        "README.md",
        "requirements.txt",
        "pre-requirements.txt",
        "LICENSE",
        "assets/compact/model_index.json",
    } <= listed
    assert {"sisrm/pipeline.py", "sisrm/ui/blocks.py", "examples/cat.png"} <= listed
    assert not any(name.startswith(("tests/", "benchmarks/", ".ci/")) for name in listed)
    assert sum((ROOT / name).stat().st_size for name in listed) == int(lines[-3].split()[0].replace(",", ""))
    assert lines[-2:] == ["variable SISRM_PRESET=compact", "dry run: nothing was sent"] and hub == []


def test_exactly_the_listed_files_go_in_one_commit(checkout, hub, capsys):
    assert main(["publish-space", "someone/sisrm", "--private"]) == 0
    (made, _, about), (named, variable, _), (sent, _, upload) = hub
    assert (made, named, sent) == ("create_repo", "add_space_variable", "upload_folder")
    assert about["repo_type"] == upload["repo_type"] == "space" and about["space_sdk"] == "gradio" and about["private"]
    assert variable == ("someone/sisrm", "SISRM_PRESET", "compact") and upload["delete_patterns"] == "*"
    assert sorted(upload["sent"]) == ["README.md", "app.py", "assets/w[1].bin", "sisrm/a.py"]
    assert all(text == (checkout / name).read_text() for name, text in upload["sent"].items())
    assert capsys.readouterr().out.splitlines()[-1].startswith("https://huggingface.co/spaces/someone/sisrm")


def test_a_space_for_sd_has_its_weights_downloaded_while_it_is_built(checkout, hub, capsys):
    assert main(["publish-space", "someone/sisrm", "--preset", "sd"]) == 0
    (_, _, _), (_, variable, _), (_, _, upload) = hub
    assert variable[1:] == ("SISRM_PRESET", "sd") and set(upload["sent"]) >= {"README.md", "app.py"}
    front = yaml.safe_load(upload["sent"]["README.md"].split("---\n")[1])
    assert front["title"] == "SISRM" and upload["sent"]["README.md"].endswith("---\n\n# SISRM\n\n---\n")
    asked = [entry.split(" ") for entry in front["preload_from_hub"]]
    assert {repository: (tuple(files.split(",")), commit) for repository, files, commit in asked} == {
        part.repository: (part.files, part.revision) for part in PINS.values()
    }
    assert set(PRESETS["sd"].needs) | {PRESETS["sd"].fast} == set(PINS.values())
    printed = capsys.readouterr().out
    assert all(f"  - {entry}\n" in printed for entry in front["preload_from_hub"])
    assert "preload_from_hub" not in (checkout / "README.md").read_text()


def test_readme_shows_the_lines_that_preload_sd():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\n".join(publish_space.preload_lines()) in text
    assert "preload_from_hub" not in text.split("---\n")[1], "the default Space needs nothing from the hub"


def test_the_torch_that_a_space_gets_is_one_that_zero_gpu_supports_and_requirements_accept():
    def pinned(name: str) -> Requirement:
        lines = (ROOT / name).read_text().splitlines()
        return next(Requirement(line) for line in lines if line.startswith("torch") and line[5] in "=><")

    (exact,) = pinned("pre-requirements.txt").specifier
    assert exact.operator == "==" and pinned("requirements.txt").specifier.contains(exact.version)
    supported = re.findall(r"\d+\.\d+\.\d+", (ROOT / "pre-requirements.txt").read_text().split("torch==")[0])
    assert exact.version == supported[-1] == max(supported, key=Version)
    front = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert front["python_version"] in ("3.10.13", "3.12.12"), "the two that ZeroGPU has"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"token = '" + b"hf_" + b"a" * 34 + b"'", "Hugging Face token"),
        (b"-----BEGIN RSA " + b"PRIVATE KEY-----", "private key"),
        (b"0" * (publish_space.MAX_FILE_BYTES + 1), "bytes"),
    ],
)
def test_secrets_and_large_files_stay(checkout, hub, capsys, content, named):
    (checkout / "sisrm/a.py").write_bytes(content)
    assert main(["publish-space", "someone/sisrm"]) == 2
    told = capsys.readouterr().err
    assert "sisrm/a.py" in told and named in told and hub == []


def test_what_is_no_checkout_or_no_name_is_refused(tmp_path, hub, capsys):
    with pytest.raises(ParameterError, match="git checkout"):
        publish_space.files_to_send(tmp_path)
    for name in ("sisrm", "a/b/c", "../x", "a b/c"):
        assert main(["publish-space", name, "--dry-run"]) == 2
        assert "such as someone/sisrm" in capsys.readouterr().err


def test_a_refusal_of_the_hub_is_one_line(checkout, monkeypatch, capsys):
    def refuse(self, *args, **options):
        raise huggingface_hub.errors.LocalTokenNotFoundError("Token is required, but no token found.\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    assert main(["publish-space", "someone/sisrm"]) == 2
    told = capsys.readouterr().err.strip()
    assert "no token found" in told and "\n" not in told
