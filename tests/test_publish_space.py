"""`publish-space`: exactly the files that a Space needs go, nothing secret, and nothing at all in a dry run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from sisrm.cli import main
from sisrm.commands import publish_space
from sisrm.errors import ParameterError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout of its own, with one file that git does not track."""
    for name in ("app.py", "sisrm/a.py", "assets/w[1].bin", "tests/test_a.py", ".ci/run", "secret.env"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "app.py", "sisrm", "assets", "tests", ".ci"], check=True)
    monkeypatch.setattr(publish_space, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    """What would have reached the hub; it is outside this machine."""
    calls = []
    for name in ("create_repo", "upload_folder"):

        def record(self, *args, _name=name, **options):
            calls.append((_name, args, options))
            return SimpleNamespace(commit_url="https://huggingface.co/spaces/someone/sisrm/commit/1")

        monkeypatch.setattr(huggingface_hub.HfApi, name, record)
    return calls


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_dry_run_lists_what_a_space_needs_and_sends_nothing(hub, capsys):
    assert main(["publish-space", "someone/sisrm", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[-1] for line in lines[:-2]}
    assert {"app.py", "README.md", "requirements.txt", "LICENSE", "assets/compact/model_index.json"} <= listed
    assert {"sisrm/pipeline.py", "sisrm/ui/blocks.py", "examples/cat.png"} <= listed
    assert not any(name.startswith(("tests/", "benchmarks/", ".ci/")) for name in listed)
    assert sum((ROOT / name).stat().st_size for name in listed) == int(lines[-2].split()[0].replace(",", ""))
    assert lines[-1] == "dry run: nothing was sent" and hub == []


def test_exactly_the_listed_files_go_in_one_commit(checkout, hub, capsys):
    assert main(["publish-space", "someone/sisrm", "--private"]) == 0
    (made, _, about), (sent, _, upload) = hub
    assert (made, sent) == ("create_repo", "upload_folder")
    assert about["repo_type"] == upload["repo_type"] == "space" and about["space_sdk"] == "gradio" and about["private"]
    paths = [str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()]
    kept = huggingface_hub.utils.filter_repo_objects(paths, allow_patterns=upload["allow_patterns"])
    assert sorted(kept) == ["app.py", "assets/w[1].bin", "sisrm/a.py"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("https://huggingface.co/spaces/someone/sisrm")


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
