"""The shape of the code: imports go one way, only the interface knows Gradio, files stay short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*sorted((ROOT / "sisrm").rglob("*.py")), ROOT / "app.py"]
}

# From the top down. A module may import from layers below its own, and from its own where that makes no cycle.
LAYERS = [
    ["app", "sisrm.__main__"],
    ["sisrm.cli"],
    ["sisrm.commands"],
    ["sisrm.ui"],
    ["sisrm.training", "sisrm.evaluation"],
    ["sisrm.presets"],
    ["sisrm.runtime", "sisrm.fast"],
    ["sisrm.pipeline"],
    ["sisrm.assembly", "sisrm.networks", "sisrm.public_parts", "sisrm.semantics", "sisrm.tiled_steps"],
    ["sisrm.unet", "sisrm.controlnet", "sisrm.image_encoder", "sisrm.autoencoder", "sisrm.sape", "sisrm.mff"],
    [
        "sisrm.attention",
        "sisrm.checks",
        "sisrm.class_map",
        "sisrm.color",
        "sisrm.coring",
        "sisrm.drawing",
        "sisrm.figure",
        "sisrm.resize",
        "sisrm.schedulers",
        "sisrm.steps",
        "sisrm.tiling",
        "sisrm.images",
    ],
    [
        "sisrm.conversion",
        "sisrm.decoding",
        "sisrm.made_with",
        "sisrm.memory",
        "sisrm.metadata",
        "sisrm.remembering",
        "sisrm.replay",
        "sisrm.threads",
        "sisrm.tile_batches",
        "sisrm.weights",
    ],
    ["sisrm.errors", "sisrm.whole_files", "sisrm.labels"],
    ["sisrm"],
    ["sisrm.startup"],
]


def layer_of(module: str) -> int:
    """Position in LAYERS; the longest matching name decides."""
    matches = [
        (len(name), position)
        for position, names in enumerate(LAYERS)
        for name in names
        if module == name or (name != "sisrm" and module.startswith(name + "."))
    ]
    assert matches, f"{module} has no layer: give it one in LAYERS"
    return max(matches)[1]


def imports_of(module: str) -> dict[str, bool]:
    """What a module imports -> whether that happens when it is loaded (and not inside a function)."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.walk(node)
    }
    found: dict[str, bool] = {}

    def add(name: str, node: ast.AST) -> None:
        found[name] = found.get(name, False) or node not in inside

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name, node)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                add(full if full in FILES else base, node)
    return found


def ours(module: str) -> dict[str, bool]:
    return {name: loaded for name, loaded in imports_of(module).items() if name in FILES and name != module}


def test_the_reader_of_imports_reads_them():
    assert {"app", "sisrm", "sisrm.pipeline", "sisrm.ui.blocks", "sisrm.evaluation.teacher"} <= set(FILES)
    assert ours("sisrm.pipeline")["sisrm.networks"] is True
    found = ours("sisrm.commands.model")
    assert found["sisrm.errors"] is True and found["sisrm.presets"] is False
    assert "argparse" in imports_of("sisrm.cli") and "sisrm.commands.restore" in imports_of("sisrm.cli")


@pytest.mark.parametrize("module", FILES)
def test_imports_point_downward(module):
    mine = layer_of(module)
    upward = [name for name in ours(module) if layer_of(name) < mine]
    assert not upward, f"{module} imports from a layer above its own: {upward}"


@pytest.mark.parametrize("module", FILES)
def test_only_the_interface_imports_gradio(module):
    if module == "app" or module.startswith("sisrm.ui"):
        return
    gradio = [name for name in imports_of(module) if name.split(".")[0].startswith("gradio")]
    assert not gradio


def test_there_are_no_cycles():
    graph = {module: set(ours(module)) for module in FILES}
    while leaves := [module for module, targets in graph.items() if not targets & set(graph)]:
        for module in leaves:
            del graph[module]
    assert not graph, f"modules that import each other in a circle are among: {sorted(graph)}"


@pytest.mark.parametrize("module", FILES)
def test_files_stay_short(module):
    limit = 600 if module == "sisrm.pipeline" else 350
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= limit


def test_importing_the_package_loads_no_library():
    code = "import sys, sisrm; assert not {'torch', 'diffusers', 'transformers', 'gradio', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_lazy_names_of_the_package_exist():
    import sisrm

    for name in sisrm.__all__:
        assert getattr(sisrm, name) is not None
    assert not hasattr(sisrm, "nothing_of_this_name")
