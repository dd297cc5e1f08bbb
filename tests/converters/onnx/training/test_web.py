"""The training graph on the runtimes for JavaScript: under Node, and in a page of a real browser.

The packages are looked for in the folder that OPTEXPORT_NODE_MODULES names (it has ``node_modules``), and in
``examples/web``. Chromium: the program that CHROMIUM names, or an installed one.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import optexport as ox
from optexport.demo import make_data, run
from optexport.errors import OptexportError
from optexport.parity.compare import relative_error
from optexport.state import TrainingState, bundle

from .browser import Browser, chromium

pytest.importorskip("onnxruntime")

WEB = Path(__file__).parents[4] / "examples" / "web"
FILES = ("train.mjs", "run.mjs", "index.html")
HALF = 25


def modules(package: str) -> Path:
    """The folder whose node_modules has the package; skips where there is none."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    for folder in (os.environ.get("OPTEXPORT_NODE_MODULES"), WEB):
        if folder and (Path(folder) / "node_modules" / package / "package.json").is_file():
            return Path(folder).resolve()
    pytest.skip(f"{package} is not installed; run npm install --ignore-scripts in examples/web")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with what make.py writes."""
    folder = tmp_path_factory.mktemp("web")
    for name in FILES:
        shutil.copy(WEB / name, folder)
    runpy.run_path(str(WEB / "make.py"))["main"](folder)
    return folder


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(run.CONTINUATION) as file:
        return {name: file[name] for name in file.files}


def batches(recorded: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [
        {"pixels": recorded["images"][rows].astype(np.float32) / np.float32(16),
         "label": recorded["labels"][rows].astype(np.int64)}
        for rows in recorded["batches"]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def python(page: Path, recorded: dict[str, np.ndarray]) -> tuple[list[float], TrainingState]:
    """The same 50 updates on Python's onnxruntime: losses, and the state at the end."""
    from optexport.converters.onnx.runtime import Trainer

    trainer = Trainer.resume(
        page / "start.safetensors", run.FORWARD, run.LOSS, threads=1, flush_denormals=False
    )
    return [trainer.step(**b) for b in batches(recorded)], trainer.state()


def node(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", script, *arguments], capture_output=True, text=True, timeout=120)


def trained(page: Path, package: str, *arguments: str) -> dict[str, Any]:
    done = node(page / "run.mjs", "--runtime", package, "--modules", str(modules(package)),
                "--folder", str(page), *arguments)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def worst(state: TrainingState, other: TrainingState) -> float:
    """The largest relative error of a parameter or slot."""
    pairs = [(state.params[n], other.params[n]) for n in other.names]
    pairs += [(state.slots[n][s], a) for n in other.names for s, a in other.full_slots(n).items()]
    return max(relative_error(a, b) for a, b in pairs)


@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_node_has_the_losses_and_the_state_of_python(
    package: str, page: Path, python: tuple[list[float], TrainingState], tmp_path: Path
) -> None:
    found = trained(page, package, "--out", str(tmp_path / "end.safetensors"))
    losses, end = python
    limit = run.tolerance(end, len(losses))
    assert found["step"] == make_data.SAVED_AT + make_data.CONTINUED
    assert relative_error(found["losses"], losses) <= limit
    # Every tensor is compared with its sum, so that the sums are those of the new values.
    state = bundle.read(str(tmp_path / "end.safetensors"), verify=True)
    assert worst(state, end) <= limit
    assert dict(state.steps) == dict(end.steps) and state.dialect == "torch:AdamW"
    assert [g.hyperparameters for g in state.spec.groups] == [g.hyperparameters for g in end.spec.groups]
    assert state.provenance[-1] == f"50 updates by {package} {found['version']} under Node"


def test_a_wrong_start_is_told_apart(
    page: Path, python: tuple[list[float], TrainingState], tmp_path: Path
) -> None:
    """Moments that are copied and a step that is not: what the comparison above must not let pass."""
    for name in ("step.onnx", "digits.safetensors"):
        shutil.copy(page / name, tmp_path)
    state = ox.load(page / "start.safetensors")
    ox.save(
        replace(state, steps=dict.fromkeys(state.steps, 0)), tmp_path / "start.safetensors", format="bundle"
    )
    package = "onnxruntime-node"
    done = node(page / "run.mjs", "--runtime", package, "--modules", str(modules(package)),
                "--folder", str(tmp_path))  # fmt: skip
    losses, end = python
    assert relative_error(json.loads(done.stdout)["losses"], losses) > run.CONTRAST * run.tolerance(
        end, len(losses)
    )


def other_model() -> onnx.ModelProto:
    """Batch normalisation and dropout: running statistics and a seed, which the digits have not."""
    rng = np.random.default_rng(5)
    held = {"first": (6, 8), "scale": (8,), "shift": (8,), "second": (8, 3)}
    values = {n: (rng.standard_normal(s) * 0.5).astype(np.float32) for n, s in held.items()}
    values |= {"mean": np.zeros(8, np.float32), "var": np.ones(8, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["b"], momentum=0.8),
        helper.make_node("Dropout", ["b", "ratio"], ["c"]),
        helper.make_node("MatMul", ["c", "second"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(n, T.FLOAT, ["n", k]) for n, k in (("x", 6), ("y", 3))]
    ratio = numpy_helper.from_array(np.array(0.25, np.float32), "ratio")
    initializers = [numpy_helper.from_array(a, n) for n, a in values.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [*initializers, ratio])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


DRIVER = """
import {{ createRequire }} from "node:module";
import {{ readFileSync, writeFileSync }} from "node:fs";
import {{ readSafetensors, Run }} from {train};
const ort = createRequire({modules})("onnxruntime-node");
const open = (name) => new Uint8Array(readFileSync({folder} + "/" + name));
const run = await Run.start(ort, open("step.onnx"), open("start.safetensors"));
const {{ tensors }} = readSafetensors(open("data.safetensors"));
const losses = [];
for (let i = 0; i < 4; i++) {{
  const [x, label] = ["x", "label"].map((n) => tensors[n + i]).map((t) => new ort.Tensor(t.type, t.data, t.dims));
  losses.push(await run.update({{ x, label }}, {{ lr: 0.05 }}));
}}
writeFileSync({folder} + "/end.safetensors", await run.bundle("a test"));
console.log(JSON.stringify(losses));
"""


def test_running_statistics_and_dropouts_seed_move_as_in_python(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from optexport.converters.onnx.runtime import Trainer

    folder = modules("onnxruntime-node")
    spec = ox.spec("adamw", lr=0.05)
    meant: dict[str, Any] = {"batch_norm": "train", "freeze": ["ratio"]}
    trainer = Trainer(other_model(), "mse", spec, threads=1, flush_denormals=False, seed=7, **meant)
    trainer.save(tmp_path / "start.safetensors")
    graph = ox.training_graph(other_model(), "mse", trainer.spec, **meant)
    (tmp_path / "step.onnx").write_bytes(graph.SerializeToString())
    rng = np.random.default_rng(6)
    data = {f"x{i}": rng.standard_normal((16, 6)).astype(np.float32) for i in range(4)}
    data |= {f"label{i}": rng.standard_normal((16, 3)).astype(np.float32) for i in range(4)}
    save_file(data, tmp_path / "data.safetensors")
    script = tmp_path / "driver.mjs"
    named = {"train": (WEB / "train.mjs").as_uri(), "modules": str(folder / "m.cjs"), "folder": str(tmp_path)}
    script.write_text(DRIVER.format(**{k: json.dumps(v) for k, v in named.items()}))
    done = node(script)
    assert done.returncode == 0, done.stderr
    losses = [trainer.step(data[f"x{i}"], data[f"label{i}"]) for i in range(4)]
    end = bundle.read(str(tmp_path / "end.safetensors"), verify=True)
    limit = run.tolerance(trainer.state(), 4)
    assert relative_error(json.loads(done.stdout), losses) <= limit
    assert worst(end, trainer.state()) <= limit
    assert set(end.buffers) == {"mean", "var", "seed"} and int(end.buffers["seed"]) == 7
    for name in ("mean", "var"):
        assert relative_error(end.buffers[name], trainer.state().buffers[name]) <= limit
        assert relative_error(end.buffers[name], {"mean": np.zeros(8), "var": np.ones(8)}[name]) > 0.01
    # Another seed is another mask, so the seed is what the two have in common.
    other = Trainer(other_model(), "mse", spec, threads=1, flush_denormals=False, seed=8, **meant)
    apart = [other.step(data[f"x{i}"], data[f"label{i}"]) for i in range(4)]
    assert relative_error(apart, losses) > run.CONTRAST * limit


def test_bundle_of_another_model_is_one_line_and_writes_nothing(page: Path, tmp_path: Path) -> None:
    folder = modules("onnxruntime-node")
    for name in ("step.onnx", "digits.safetensors"):
        shutil.copy(page / name, tmp_path)
    state = ox.init(ox.spec("adamw", lr=0.1), {"w": np.ones((2, 3))}, dtype="float32")
    ox.save(state, tmp_path / "start.safetensors", format="bundle")
    arguments = (
        "--modules",
        str(folder),
        "--folder",
        str(tmp_path),
        "--out",
        str(tmp_path / "end.safetensors"),
    )
    done = node(page / "run.mjs", *arguments)
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "end.safetensors").exists()
    assert done.stderr == (
        "run.mjs: hidden.weight: expected it in the bundle and in the graph, found it in one; they are of two runs\n"
    )
    shutil.copy(page / "digits.safetensors", tmp_path / "start.safetensors")
    done = node(page / "run.mjs", *arguments)
    assert done.returncode == 2
    assert done.stderr == (
        "run.mjs: expected a bundle, found a safetensors file without optexport's manifest\n"
    )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(page: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that is served, as the example's README says, and its address."""
    folder = tmp_path / "site"
    shutil.copytree(page, folder)
    os.symlink(modules("onnxruntime-web") / "node_modules", folder / "node_modules")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    folder = tmp_path / "browser"
    folder.mkdir()
    with Browser(program, folder) as opened:
        yield opened


STATUS = "document.getElementById('status').textContent"


def press_train(browser: Browser, updates: int) -> str:
    """What the page says in the end."""
    browser.value(f"document.getElementById('updates').value = {updates}")
    browser.value("document.getElementById('train').click()")
    browser.wait(f"/^(done|failed)/.test({STATUS})", timeout=120)
    return str(browser.value(STATUS))


def downloaded(browser: Browser, folder: Path) -> Path:
    browser.value("document.getElementById('download').click()")
    file, end = folder / "page.safetensors", time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < end, "the page gave no file"
        time.sleep(0.05)
    return file


def test_page_trains_and_pytorch_resumes_what_it_wrote(
    browser: Browser, site: tuple[Path, str], recorded: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """100 updates in PyTorch, 25 in the page, 25 in PyTorch: as 150 in PyTorch."""
    torch = pytest.importorskip("torch")
    browser.open(site[1])
    assert browser.value(STATUS) == "ready"
    assert press_train(browser, HALF).startswith("done: update 125, loss ")
    rows = browser.value("[...document.querySelectorAll('#losses tr')].map(r => r.cells[1].textContent)")
    losses = [float(text) for text in rows]
    file = downloaded(browser, tmp_path / "browser")
    command = [sys.executable, "-m", "optexport", "convert", str(file), str(tmp_path / "resumed.pt"),
               "--to", "torch-combined"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("exact"), done.stderr

    held = torch.load(tmp_path / "resumed.pt", weights_only=True)
    model = make_data.network()
    model.load_state_dict(held["model"])
    optimizer = make_data.optimizer_of(model)
    optimizer.load_state_dict(held["optimizer"])
    for batch in batches(recorded)[HALF:]:
        optimizer.zero_grad()
        scores = model(torch.from_numpy(batch["pixels"]))
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(batch["label"]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    state = ox.load(run.CHECKPOINT)
    limit = run.tolerance(state, make_data.CONTINUED)
    assert relative_error(losses, recorded["loss"]) <= limit
    for name, parameter in model.named_parameters():
        of = optimizer.state[parameter]
        assert int(of["step"]) == make_data.SAVED_AT + make_data.CONTINUED
        for key, tensor in {
            "param": parameter.detach(),
            **{s: of[s] for s in ("exp_avg", "exp_avg_sq")},
        }.items():
            assert relative_error(tensor.numpy(), recorded[f"{key}/{name}"][-1]) <= limit
    picture = tmp_path / "page.png"
    browser.screenshot(picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    lines = browser.value("[...document.querySelectorAll('#chart polyline')].map(l => l.points.length)")
    assert lines == [HALF, HALF]


def test_page_says_what_it_misses(browser: Browser, site: tuple[Path, str]) -> None:
    (site[0] / "step.onnx").unlink()
    browser.open(site[1])
    said = press_train(browser, HALF)
    assert said == "failed: step.onnx: expected a file, found status 404; run python make.py first"
    assert browser.value("document.getElementById('download').hidden") is True
    assert browser.value("document.getElementById('train').disabled") is False


def test_bundle_whose_tensors_were_changed_is_noticed(page: Path, tmp_path: Path) -> None:
    """The sums in a bundle from JavaScript are of use: a flipped bit is found."""
    file = tmp_path / "end.safetensors"
    trained(page, "onnxruntime-node", "--updates", "1", "--out", str(file))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(OptexportError, match="sha256"):
        bundle.read(str(file), verify=True)
