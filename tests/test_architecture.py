"""The house rules: imports point down, heavy packages have one door, all that is public is said."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tokenunify_scale"
MODULES = sorted(PACKAGE.rglob("*.py"))

# fmt: off
FLOORS = [
    {"config"},
    {"registry"},
    {"ops", "tokens", "volumes", "metrics", "train"},
    {"models", "data", "postprocess"},
    {"objectives", "model_card", "figures", "measure", "inference", "viewer", "hub"},
    {"scoring", "validation"},
    {"prepare", "pretrain", "finetune", "predict", "segment", "evaluate", "export",
     "import_official", "benchmark", "doctor"},
    {"scaling"},
    {"show", "flags"},
    {"launch"},
    {"cli", "__main__", "__init__"},
]
# fmt: on
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}

DOORS = {
    "yaml": {"config"},
    "deepspeed": {"train.door"},
    "mamba_ssm": {"ops.selective_scan", "ops.baselines"},
    "causal_conv1d": {"ops.causal_conv1d"},
    "webdataset": {"data.shards.pack"},
    "h5py": {"volumes.hdf5"},
    "tifffile": {"volumes.tiff"},
    "matplotlib": {
        "scaling.pages.plot",
        "scaling.pages.page",
        "scaling.pages.legend",
        "scaling.pages.strokes",
        "figures",
        "measure.picture",
        "models.picture",
        "data.changes.preview",
        "objectives.schedule",
        "objectives.rollout_picture",
        "objectives.reconstruction_picture",
        "viewer.meshes",
    },
    "mpi4py": {"data.team"},
    "transformers": {"hub"},
    "huggingface_hub": {"hub"},
    "numba": {"ops", "metrics.kernels"},
    "tensorstore": {"volumes.store"},
    "nibabel": {"volumes.nifti"},
    "PIL": {"volumes.section"},
    "waterz": {"postprocess"},
    "bioimage_cpp": {"postprocess"},
    "daisy": {"volumes.blocks"},
    "monai": {"measure.inferer"},
    "safetensors": {"train.checkpoint"},
    "wandb": {"train.boards"},
    "tensorboard": {"train.boards"},
    "rich": {"train.runlog", "scaling.jobs.pool", "scaling.jobs.status"},
}
VERBS = (
    "prepare", "pretrain", "finetune", "predict", "segment", "evaluate", "export",
    "import_official", "benchmark", "doctor", "launch",
)  # fmt: skip


def name_of(path):
    """The module's dotted name below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path):
    """Every module that a file imports anywhere, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield node.module, node.lineno


def public(tree):
    """Public modules, classes, functions and methods of a syntax tree."""
    yield tree
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                methods = (n for n in node.body if isinstance(n, ast.FunctionDef))
                yield from (n for n in methods if not n.name.startswith("_"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    part = name_of(path).split(".")[0]
    assert part in FLOOR, f"{part} is on no floor"
    for module, line in imports(path):
        words = module.split(".")
        if words[0] != "tokenunify_scale":
            continue
        other = words[1] if len(words) > 1 else "__init__"
        if other in ("__init__", "cli", "show") and part in ("cli", "__main__"):
            continue  # the version; the way in; what only prints
        below = FLOOR[other] < FLOOR[part] or other == part
        assert below, f"{path.name}:{line}: {part} (floor {FLOOR[part]}) imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_heavy_package_has_one_door(path):
    name = name_of(path)
    for module, line in imports(path):
        doors = DOORS.get(module.split(".")[0])
        if doors is not None:
            allowed = name in doors or name.split(".")[0] in doors
            assert allowed, f"{path}:{line}: {module} is imported at {', '.join(sorted(doors))}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_all_that_is_public_is_documented_and_typed(path):
    for node in public(ast.parse(path.read_text())):
        name = getattr(node, "name", path.name)
        assert ast.get_docstring(node), f"{path}: {name} has no docstring"
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            typed = all(a.annotation or a.arg in ("self", "cls") for a in arguments)
            assert typed and node.returns, f"{path}:{node.lineno}: {name} lacks types"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_text_is_ascii(path):
    assert path.read_text().isascii()


@pytest.mark.parametrize("verb", [*VERBS, "scaling"])
def test_a_verb_is_a_module_a_script_and_a_test(verb):
    script = (ROOT / "scripts" / f"{verb}.py").read_text()
    assert f'main("{verb.replace("_", "-")}")' in script and len(script.splitlines()) <= 10
    if verb == "scaling":
        assert (PACKAGE / "scaling").is_dir() and (ROOT / "tests" / "scaling").is_dir()
        return
    assert (ROOT / "tests" / f"test_{verb}.py").is_file()
    tree = ast.parse((PACKAGE / f"{verb}.py").read_text())
    names = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert {"Config", "run", "plan"} <= names


def test_every_module_has_a_test_file():
    # Their laws are held by the tests of what uses them.
    told = {"__init__", "__main__", "scan_sums", "simd", "simd_math", "job", "output"}
    for path in MODULES:
        if path.stem in told or path.stem.startswith("synthetic_"):
            continue
        mirror = ROOT / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.stem}.py")
        assert mirror.is_file(), f"{name_of(path)} has no {mirror.relative_to(ROOT)}"


def test_the_top_level_holds_what_it_should_and_nothing_else():
    allowed = {
        "setup.py", "tokenunify_scale", "ds_configs", "model_cards", "scripts", "tests",
        "README.md", "LICENSE", "pyproject.toml", ".gitignore", ".ci", "docs", ".git", ".venv",
        "runs", "quickstart", "build", "dist", "tokenunify_scale.egg-info", ".pytest_cache",
        ".ruff_cache",
    }  # fmt: skip
    assert {path.name for path in ROOT.iterdir()} <= allowed
