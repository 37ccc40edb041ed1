"""What `import styleforge` promises: little, quickly, and always the same names."""

import ast
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import styleforge

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "styleforge"
ZOO = tomllib.loads((ROOT / "model_cards" / "zoo.toml").read_text())["style"]

# Modules by layer: each may import from layers below it only. A new module takes its place here.
LAYERS = [
    [
        "errors",
        "files",
        "rng",
        "configs",
        "weights",
        "card",
        "download",
        "images",
        "augment",
        "damage",
        "precision",
        "losses",
        "layers",
        "memory",
        "processes",
        "checkpoint",
        "repos",
        "state",
        "schedules",
        "tracking",
        "watch",
    ],
    ["doctor", "hub"],
    ["control", "features", "lora", "recompute"],
    ["engine", "metrics", "models"],
    ["data", "discover", "invert", "methods", "pipeline", "quality"],
    ["adaptation", "batch", "datacheck", "export", "large", "runs", "samples"],
    ["cards", "convert", "equalize", "explain", "push", "report", "survey", "video"],
    ["bridges", "demo", "train"],
    ["evaluate", "fit"],
    ["cli"],
    ["__main__"],
]
# Who may import what, beside torch, numpy, PIL and the standard library.
HEAVY = {
    "accelerate": {"processes"},
    "gradio": {"demo", "survey"},
    "diffusers": {"bridges"},
    "av": {"video"},
    "click": {"cli"},
    "huggingface_hub": {"bridges", "doctor", "card", "discover", "hub", "push", "repos", "survey"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "pi_heif": {"images"},
    "pyvips": {"large"},
    "ray": {"batch"},
    "spandrel": {"bridges"},
    "tensorboard": {"tracking"},
    "transformers": {"control"},
    "wandb": {"tracking"},
}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def imports(path: Path) -> set[tuple[str, str]]:
    """(kind, top-level name) of all imports in a file; kind is "own" or "other"."""
    package = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {("other", alias.name.split(".")[0]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                found.add(("other", node.module.split(".")[0]))
                continue
            base = package[: len(package) - (node.level - 1)]
            inner = (*base, *(node.module.split(".") if node.module else ()))
            found |= {("own", inner[0])} if inner else {("own", alias.name) for alias in node.names}
    return found


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards_only(path):
    module = module_of(path)
    if module == "__init__":
        return
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    assert module in level, f"{module} has no layer: give it one in this test"
    for kind, name in imports(path):
        if kind == "own" and name in level and name != module:
            within = level[name] == level[module] == 0  # the ground layer may lean on itself
            assert level[name] < level[module] or within, f"{module} imports {name}"
        if kind == "other" and name in HEAVY:
            assert module in HEAVY[name], f"{module} imports {name}"


def test_models_know_no_training_and_losses_know_no_models():
    for folder, foreign in (
        ("models", {"losses", "methods", "train", "data"}),
        ("losses", {"models", "methods", "hub"}),
    ):
        for path in (PACKAGE / folder).glob("*.py"):
            assert not {name for kind, name in imports(path) if kind == "own"} & foreign, path


def test_import_is_light():
    """It is nothing but its own first file and a few modules of Python's: the rest comes when it is asked for."""
    new = run("import sys; before = set(sys.modules); import styleforge; print(*set(sys.modules) - before)").split()
    assert {name for name in new if name.split(".")[0] not in sys.stdlib_module_names} == {"styleforge"}
    assert len(new) < 60


def test_help_loads_no_torch():
    code = (
        "import sys; from styleforge import cli\n"
        "for arguments in (['--help'], ['train', '--help'], ['stylize', '--help'], ['styles']):\n"
        "    try: cli.cli(arguments)\n"
        "    except SystemExit: pass\n"
        "print(sorted({'gradio', 'diffusers', 'accelerate'} & set(sys.modules)))\n"
        "sys.argv = ['styleforge', '--help']\n"
    )
    assert run(code).splitlines()[-1] == "[]"
    code = (
        "import sys; from styleforge import cli\n"
        "for arguments in (['--help'], ['train', '--help'], ['stylize', '--help']):\n"
        "    try: cli.cli(arguments)\n"
        "    except SystemExit: pass\n"
        "print('torch' in sys.modules)\n"
    )
    assert run(code).splitlines()[-1] == "False"


def test_public_names_are_these_and_all_load():
    assert sorted(styleforge.__all__) == [
        "ImagePolicy",
        "PatchDiscriminator",
        "PixelDiscriminator",
        "PretrainedMixin",
        "ResnetGenerator",
        "StylePipeline",
        "StyleforgeError",
        "UNetGenerator",
        "__version__",
        "bundled_styles",
        "convert_checkpoint",
    ]
    assert set(styleforge.__all__) == {"__version__", *styleforge._PUBLIC}
    for name in styleforge.__all__:
        assert getattr(styleforge, name) is not None
    assert dir(styleforge) == sorted(styleforge.__all__)
    with pytest.raises(AttributeError, match="no attribute 'NoSuchThing'"):
        styleforge.NoSuchThing  # noqa: B018


def test_the_same_class_from_both_doors():
    from styleforge.models import ResnetGenerator

    assert styleforge.ResnetGenerator is ResnetGenerator


def test_the_base_class_alone_finds_every_architecture(tmp_path):
    styleforge.ResnetGenerator(width=2, blocks=0).save_pretrained(tmp_path / "style")
    load = f"styleforge.PretrainedMixin.from_pretrained({str(tmp_path / 'style')!r})"
    assert run(f"import styleforge; print(type({load}).__name__)").strip() == "ResnetGenerator"


def test_package_is_marked_as_typed_and_licensed():
    assert (PACKAGE / "py.typed").is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_no_pickle_is_ever_read():
    """Only safetensors and JSON: nothing in the package may call an unpickler, but the process for strangers' files."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "torch.load" and path == PACKAGE / "convert" / "child.py":
                    assert "weights_only=True" in ast.unparse(node)
                    continue
                assert called not in ("torch.load", "pickle.load", "pickle.loads", "eval", "exec", "__import__"), path


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_setting_up_needs_no_tools_but_those_of_every_system(tmp_path):
    """Of POSIX, that is: macOS before 15 has no sha256sum."""
    for folder in ("tools", "scripts", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for tool in ("bash", "cat", "cksum", "cut", "dirname", "grep", "touch"):
        (tmp_path / "tools" / tool).symlink_to(shutil.which(tool))
    for name in ("python", "pip"):
        (tmp_path / ".venv/bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    for name in ("pyproject.toml", "scripts/setup.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    command = ["bash", tmp_path / "scripts/setup.sh"]
    done = subprocess.run(command, env={"PATH": str(tmp_path / "tools")}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and len(list(tmp_path.glob(".venv/.styleforge-*"))) == 1


def test_the_bundled_styles_are_small():
    assert styleforge.bundled_styles()[0] == "fastcut-impressionist"  # where none is named
    for name in styleforge.bundled_styles():
        assert size_of(PACKAGE / "styles" / name) <= 12e6, f"{name} is larger than 12 MB"
        assert json.loads((PACKAGE / "styles" / name / "config.json").read_text())["_class_name"]
    assert size_of(PACKAGE / "styles") <= 23.6e6, "the wheel is to stay below 25 MB"


@pytest.mark.parametrize("style", ZOO, ids=lambda style: style["name"])
def test_every_published_style_has_card_recipe_and_weights_that_fit(style):
    name = style["name"]
    card, recipe = ROOT / "model_cards" / name, ROOT / "scripts" / "recipes" / f"{name}.sh"
    assert (card / "samples" / "before-after.jpg").is_file() and recipe.is_file()
    assert f"[card](model_cards/{name}/" in (ROOT / "README.md").read_text()
    home = PACKAGE / "styles" / name if style.get("bundled") else card
    pipe = styleforge.StylePipeline.from_pretrained(home)
    if "image" in pipe.model.capabilities.inputs:
        picture = np.random.default_rng(0).integers(0, 256, (64, 72, 3), np.uint8)
        more = {"style": picture} if "style" in pipe.model.capabilities.inputs else {}
        assert pipe(picture, **more).size == (72, 64)
    else:
        assert len(pipe.generate(2, seed=0)) == 2


def test_the_zoo_is_what_is_here_and_within_its_bounds():
    assert {style["name"] for style in ZOO} == {path.parent.name for path in (ROOT / "model_cards").glob("*/README.md")}
    assert {style["name"] for style in ZOO if style.get("bundled")} == set(styleforge.bundled_styles())
    assert size_of(PACKAGE / "styles") + size_of(ROOT / "model_cards") <= 120e6
