"""The package as a whole: what importing it costs, what is public, who may import whom."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

import optexport

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {"torch", "mxnet", "onnxruntime", "jax", "flax", "optax", "keras", "tensorflow", "mlx", "paddle"}
# Converters that have a dialect and files, and emit no optimizer.
READ_AND_RUN = {"mlx", "paddle"}
# The demonstration runs a framework, and only when it is run.
RUNS_A_FRAMEWORK = {"optexport/demo/session.py", "optexport/demo/make_data.py"}
SOURCES = sorted(
    p.relative_to(ROOT).as_posix()
    for folder in ("optexport", "converters", "schemas")
    for p in (ROOT / folder).rglob("*.py")
)


def python(code: str, *flags: str, cwd: Path | None = None, **env: str) -> str:
    """Standard output of a fresh process."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        env={**kept, **env},
        cwd=cwd,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh process has after ``code``."""
    text = python(f"import sys\n{code}\nprint(*{{m.partition('.')[0] for m in sys.modules}})")
    return set(text.splitlines()[-1].split())


# Importing.


def test_importing_the_package_imports_nothing():
    modules = loaded_by("import optexport")
    assert not modules & (
        FRAMEWORKS | {"numpy", "google", "onnx", "click", "rich", "safetensors", "ml_dtypes"}
    )


def test_using_the_package_imports_no_framework():
    golden = ROOT / "tests" / "data" / "golden" / "bundle_v1.safetensors"
    sample = ROOT / "tests" / "data" / "torch" / "adam.pt"
    states = ROOT / "tests" / "data" / "mxnet" / "trainer_adam.states"
    code = f"""
import numpy as np, optexport as ox
for name in ox.__all__:
    getattr(ox, name)
state = ox.step(ox.init(ox.native("torch:AdamW"), {{"w": np.ones(2)}}), {{"w": np.ones(2)}})
new, report = ox.translate(state, to="mxnet:Adam", allow="lossy")
ox.load({str(golden)!r}), ox.load({str(sample)!r}), ox.load({str(states)!r})
for target in ("torch", "mxnet", "onnx"):
    ox.emit(ox.spec("adam"), target, {{"w": (2,)}})
"""
    assert not loaded_by(code) & FRAMEWORKS


@pytest.mark.parametrize("command", [None, "rules", "explain", "inspect", "convert", "diff", "emit", "demo"])
def test_help_imports_no_numpy(command):
    argv = ["--help"] if command is None else [command, "--help"]
    code = f"from optexport.cli import main\ntry:\n    main({argv!r})\nexcept SystemExit as e:\n    assert e.code == 0\n"
    assert not loaded_by(code) & (FRAMEWORKS | {"numpy", "google", "onnx"})


def test_help_answers_at_once():
    """Under half a second: the best of five fresh processes."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "optexport", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_all_commands_of_the_help_exist():
    from optexport.cli import COMMANDS

    text = python("from optexport.cli import main; main(['--help'])")
    files = {m.name.replace("_", "-") for m in pkgutil.iter_modules([str(ROOT / "optexport" / "cli")])} - {
        "output"
    }
    assert set(COMMANDS) == files and all(f"\n  {name} " in text for name in COMMANDS)


# Public names.


@pytest.mark.parametrize("name", optexport.__all__)
def test_every_public_name_is_there(name):
    assert getattr(optexport, name) is not None


def test_nothing_else_is_public():
    assert dir(optexport) == sorted(optexport.__all__)
    assert len(set(optexport.__all__)) == len(optexport.__all__)
    with pytest.raises(AttributeError, match="module 'optexport' has no attribute 'adam'; expected one of"):
        _ = optexport.adam


def test_type_checkers_see_the_names_that_are_there():
    tree = ast.parse((ROOT / "optexport" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    seen = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == optexport._HOME


def module_name(path: str) -> str:
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return name if name.startswith("optexport") else f"optexport.{name}"


def tree_of(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def is_public(path: str) -> bool:
    return not any(part.startswith("_") for part in module_name(path).split("."))


@pytest.mark.parametrize("path", [p for p in SOURCES if is_public(p) and (ROOT / p).stat().st_size])
def test_a_module_says_what_it_is_and_what_is_public(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), "no docstring"
    # Assigned, defined, or taken over from a file of the same folder.
    own = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {a.name for n in tree.body if isinstance(n, ast.ImportFrom) and n.level == 1 for a in n.names}
    targets = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
    targets += [n.target for n in tree.body if isinstance(n, ast.AnnAssign)]
    own |= {t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)}
    if all(n.startswith("_") for n in own - {"__all__"}) and "__all__" not in own:
        return
    (names,) = [
        n.value
        for n in tree.body
        if isinstance(n, ast.Assign | ast.AnnAssign)
        and "__all__" in [ast.unparse(t) for t in (n.targets if isinstance(n, ast.Assign) else [n.target])]
    ]
    if path != "optexport/__init__.py":
        listed = ast.literal_eval(names)
        taken = {a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
        assert len(set(listed)) == len(listed) and set(listed) <= own | taken


# Who may import whom.


def imports(path: str) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it."""
    package = module_name(path).split(".")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    out = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            out |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            out |= {module, *(f"{module}.{a.name}" for a in node.names)}
    return out


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if not p.startswith("converters/") and p not in RUNS_A_FRAMEWORK]
)
def test_the_core_imports_no_framework(path):
    assert not {m.partition(".")[0] for m in imports(path)} & FRAMEWORKS


@pytest.mark.parametrize("path", [p for p in SOURCES if not p.startswith("converters/")])
def test_the_core_names_no_converter(path):
    """It finds them by their names at run time, so that a new one changes nothing here."""
    found = {m for m in imports(path) if m.startswith("optexport.converters.")}
    assert not found or path.startswith("optexport/demo/")


# What runs a framework, where that is not the framework alone.
MAY_IMPORT = {"onnx": {"onnxruntime"}, "keras": {"keras", "jax"}, "optax": {"optax", "jax", "flax"}}
CONVERTERS = [p for p in SOURCES if p.startswith("converters/") and p.count("/") > 1]


@pytest.mark.parametrize("path", CONVERTERS)
def test_converters_never_import_one_another(path):
    own = path.split("/")[1]
    for module in imports(path):
        if module.startswith("optexport.converters."):
            assert module.split(".")[2] == own, module


@pytest.mark.parametrize("path", CONVERTERS)
def test_a_converter_imports_only_its_own_framework_and_only_to_run_it(path):
    own = MAY_IMPORT.get(path.split("/")[1], {path.split("/")[1]})
    found = {m.partition(".")[0] for m in imports(path)} & FRAMEWORKS
    assert found <= own
    if Path(path).name in ("dialect.py", "checkpoint.py", "emit.py", "__init__.py"):
        assert not found


@pytest.mark.parametrize(
    ("folder", "may_use"),
    [
        ("ir", {"ir", "errors"}),
        ("transforms", {"ir", "transforms"}),
        ("rules", {"ir", "transforms", "rules", "errors"}),
    ],
)
def test_the_mathematics_depends_on_nothing_else(folder, may_use):
    for path in (p for p in SOURCES if p.startswith(f"optexport/{folder}/")):
        own = {m.split(".")[1] for m in imports(path) if m.startswith("optexport.") and m != "optexport"}
        # The wire form of programs is the one place that knows the schemas.
        assert own <= may_use | ({"schemas"} if path == "optexport/ir/wire.py" else set()), path


# Files that ship.


def test_the_descriptors_are_those_of_the_proto(tmp_path):
    protoc = pytest.importorskip(
        "grpc_tools.protoc", reason="protoc comes with grpcio-tools, which is not here"
    )
    out = tmp_path / "optexport.binpb"
    arguments = [
        "protoc",
        f"-I{ROOT / 'schemas'}",
        "--include_imports",
        f"--descriptor_set_out={out}",
        "optexport.proto",
    ]
    assert protoc.main(arguments) == 0
    assert out.read_bytes() == (ROOT / "schemas" / "optexport.binpb").read_bytes()


def test_the_descriptors_have_every_message_and_field_of_the_proto():
    """Without protoc: names and numbers read off the text."""
    import re

    from optexport.schemas import message

    text = (ROOT / "schemas" / "optexport.proto").read_text(encoding="utf-8")
    text = re.sub(r"//.*", "", text).replace("oneof attr {", "")
    found: dict[str, dict[str, int]] = {}
    name = ""
    for word, field, number in re.findall(r"message (\w+)|(\w+) = (\d+);", text):
        if word:
            name = word
            found[name] = {}
        else:
            found[name][field] = int(number)
    for name, fields in found.items():
        assert {f.name: f.number for f in message(name).DESCRIPTOR.fields} == fields
    assert len(found) == 11


def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python before 3.11 has no TOML reader")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_ships():
    listed = set(project()["tool"]["setuptools"]["packages"])
    assert listed == {module_name(p) for p in SOURCES if p.endswith("/__init__.py")}


def test_every_data_file_ships():
    patterns = project()["tool"]["setuptools"]["package-data"]
    for folder, package in (
        ("optexport", "optexport"),
        ("converters", "optexport.converters"),
        ("schemas", "optexport.schemas"),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc") or "__pycache__" in path.parts:
                continue
            inside = path.parent.relative_to(ROOT / folder).as_posix()
            home = package if inside == "." else f"{package}.{inside.replace('/', '.')}"
            assert any(path.match(p) for p in patterns.get(home, ())), path


def test_the_version_is_said_once():
    assert project()["project"]["version"] == optexport.__version__
    assert python("from optexport.cli import main; main(['--version'])").strip() == optexport.__version__


def test_every_converter_is_registered():
    points = project()["project"]["entry-points"]["optexport.converters"]
    folders = {m.name for m in pkgutil.iter_modules([str(ROOT / "converters")]) if m.ispkg}
    assert points == {name: f"optexport.converters.{name}" for name in folders}
    for name in folders:
        modules = {m.name for m in pkgutil.iter_modules([str(ROOT / "converters" / name)])}
        assert modules >= {"dialect", "checkpoint", "run"}
        assert ("emit" in modules) is (name not in READ_AND_RUN)


# From a checkout, not installed.

FROM_A_CHECKOUT = """
import json, sys
sys.path.append({site!r})  # third parties; its .pth files are not read, so no editable install is
import optexport, optexport.converters, optexport.schemas
from optexport.dialects import frameworks
from optexport.schemas import message
import optexport.converters.torch.checkpoint
message("Spec")
print(json.dumps([optexport.__file__, optexport.converters.__file__, sorted(frameworks())]))
"""


@pytest.mark.parametrize("how", ["current folder", "PYTHONPATH"])
def test_a_checkout_works_as_it_is(tmp_path, how):
    code = FROM_A_CHECKOUT.format(site=sysconfig.get_paths()["purelib"])
    if how == "PYTHONPATH":
        text = python(code, "-S", cwd=tmp_path, PYTHONPATH=str(ROOT))
    else:
        text = python(code, "-S", cwd=ROOT)
    package, converters, found = json.loads(text)
    assert Path(package) == ROOT / "optexport" / "__init__.py"
    assert Path(converters) == ROOT / "converters" / "__init__.py"
    assert {"torch", "mxnet", "onnx"} <= set(found)


def test_every_module_can_be_imported_alone():
    """No module needs another to have been imported first."""
    names = [
        module_name(p)
        for p in SOURCES
        if not any(part in p for part in ("/run", "_native", "/demo/", "/foreign"))
    ]
    names = [n for n in names if not n.endswith("__main__")]
    for name in names:
        importlib.import_module(name)
    alone = ["optexport.state", "optexport.rules", "optexport.ir.wire", "optexport.reference", "optexport.specs",
             "optexport.translation", "optexport.dialects", "optexport.state.inspect", "optexport.convert"]  # fmt: skip
    for name in alone:
        python(f"import {name}")
