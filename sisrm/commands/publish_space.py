"""`publish-space`: put this checkout on the hub as a Space; a dry run lists what would go."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from sisrm.errors import ParameterError

ROOT = Path(__file__).resolve().parents[2]

LEFT_OUT = ("tests/", "benchmarks/", ".ci/", "Makefile", "pyproject.toml", "requirements-eval.txt")
"""What a Space does not run: tests, timings of other networks, and what builds and checks a checkout."""

MAX_FILE_BYTES = 10 * 2**20
"""The hub takes larger files through LFS only, and none of ours is that large: it would be a mistake."""

BUNDLED = "compact"
"""Needs nothing from the hub."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SECRETS = {
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{30,}"),
    "a GitHub token": re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    "an AWS key": re.compile(rb"\bAKIA[0-9A-Z]{16}\b"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `publish-space`."""
    parser.add_argument("repository", metavar="OWNER/NAME", help="the Space; it is made where there is none")
    parser.add_argument("--dry-run", action="store_true", help="list the files that would go, and send nothing")
    parser.add_argument(
        "--preset",
        choices=("compact", "sd"),
        default="compact",
        help="what the Space runs (its variable SISRM_PRESET); sd, for a GPU, also has its weights downloaded while the Space is built",
    )
    parser.add_argument("--private", action="store_true", help="a Space that is made now is private")


def run(options: argparse.Namespace) -> int:
    """Run `publish-space`; returns the exit status.

    Raises:
        ParameterError: the repository's name is none, or a file must not go.
    """
    if not _REPOSITORY.fullmatch(options.repository):
        raise ParameterError("OWNER/NAME", options.repository, "the name of a Space, such as someone/sisrm")
    files = files_to_send(ROOT)
    for path in files:
        print(f"{(ROOT / path).stat().st_size:>12,}  {path}")
    total = sum((ROOT / path).stat().st_size for path in files)
    print(f"{total:>12,}  bytes in {len(files)} files")
    if options.preset != BUNDLED:
        print("\n".join(["README.md gets, in its front matter:", *preload_lines()]))
    print(f"variable SISRM_PRESET={options.preset}")
    if options.dry_run:
        print("dry run: nothing was sent")
        return 0
    return send(options.repository, files, options.private, options.preset)


def files_to_send(root: Path) -> list[str]:
    """The files that git tracks and a Space needs, sorted; paths relative to `root`.

    Raises:
        ParameterError: `root` is no git checkout, or a file is too large or holds something that looks like a secret.
    """
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=False)
    if listed.returncode:
        raise ParameterError("checkout", root.name, "a git checkout: what git tracks is what goes")
    names = sorted(name for name in listed.stdout.decode().split("\0") if name and not name.startswith(LEFT_OUT))
    for name in names:
        path = root / name
        if not path.is_file() or path.is_symlink():
            raise ParameterError(name, "not a plain file", "tracked files that are there")
        content = path.read_bytes()
        if len(content) > MAX_FILE_BYTES:
            raise ParameterError(name, f"{len(content):,} bytes", f"files of at most {MAX_FILE_BYTES:,} bytes")
        for what, pattern in _SECRETS.items():
            if pattern.search(content):
                raise ParameterError(name, what, "files without secrets")
    return names


def preload_lines() -> list[str]:
    """Front matter that makes the hub download what `sd` is made of while the Space is built: repository, files and commit of each part."""
    from sisrm.public_parts import PINS

    parts = (f"  - {part.repository} {','.join(part.files)} {part.revision}" for part in PINS.values())
    return ["preload_from_hub:", *parts]


def with_preload(readme: str) -> str:
    """README with `preload_lines` at the end of its front matter."""
    before, front, after = readme.split("---\n", 2)
    return "---\n".join([before, front + "\n".join(preload_lines()) + "\n", after])


def send(repository: str, files: list[str], private: bool, preset: str) -> int:
    """Upload exactly these files in one commit; files of the Space that are not among them are deleted."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        with tempfile.TemporaryDirectory() as staged:
            for name in files:
                target = Path(staged) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)
            if preset != BUNDLED:
                readme = Path(staged) / "README.md"
                readme.write_text(with_preload(readme.read_text(encoding="utf-8")), encoding="utf-8")
            api.create_repo(repository, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True)
            api.add_space_variable(repository, "SISRM_PRESET", preset)
            commit = api.upload_folder(
                repo_id=repository,
                repo_type="space",
                folder_path=staged,
                delete_patterns="*",
                commit_message="SISRM",
            )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ParameterError(
            "OWNER/NAME", repository, f"a Space that you may write to (`hf auth login`): {reason}"
        ) from error
    print(commit.commit_url)
    return 0
