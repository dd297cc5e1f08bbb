"""Going on from a converted file with each target's own API, as its users do."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def torch(file: str, name: str, start: Arrays, grads: list[Arrays], lr: float) -> Iterator[Arrays]:
    """``load_state_dict`` of torch.optim's class."""
    import torch

    return _torch(lambda params: getattr(torch.optim, name)(params, lr=123.0), file, start, grads)


def emitted_torch(file: str, module: Path, start: Arrays, grads: list[Arrays], lr: float) -> Iterator[Arrays]:
    """``load_state_dict`` of the emitted class; a module with groups makes them."""
    made = importlib.import_module(module.stem)
    kind, groups = _emitted_class(module), getattr(made, "param_groups", None)
    yield from _torch(kind, file, start, grads, groups)


def _emitted_class(module: Path) -> Any:
    made = importlib.import_module(module.stem)
    return next(v for k, v in vars(made).items() if k.startswith("Optexport"))


def _torch(make: Any, file: str, start: Arrays, grads: list[Arrays], groups: Any = None) -> Iterator[Arrays]:
    import torch

    tensors = {n: torch.nn.Parameter(torch.from_numpy(v.copy())) for n, v in start.items()}
    optimizer = make(list(tensors.values()) if groups is None else groups(tensors.items()))
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    for g in grads:
        for n, v in tensors.items():
            v.grad = torch.from_numpy(g[n].copy())
        optimizer.step()
        yield {n: v.detach().numpy().copy() for n, v in tensors.items()}


def mxnet(file: str, name: str, start: Arrays, grads: list[Arrays], lr: float) -> Iterator[Arrays]:
    """``Updater.set_states``, the optimizer coming out of the file."""
    from optexport.converters.mxnet._import import import_mxnet

    mx = import_mxnet()
    return _mxnet(mx, mx.optimizer.create(name), file, start, grads)


def emitted_mxnet(file: str, module: Path, start: Arrays, grads: list[Arrays], lr: float) -> Iterator[Arrays]:
    from optexport.converters.mxnet._import import import_mxnet

    mx = import_mxnet()
    return _mxnet(mx, _emitted_class(module)(), file, start, grads)


def _mxnet(mx: Any, optimizer: Any, file: str, start: Arrays, grads: list[Arrays]) -> Iterator[Arrays]:
    updater = mx.optimizer.get_updater(optimizer)
    updater.set_states(Path(file).read_bytes())
    arrays = {n: mx.nd.array(v, dtype=v.dtype) for n, v in start.items()}
    for g in grads:
        for i, (n, v) in enumerate(arrays.items()):
            updater(i, mx.nd.array(g[n], dtype=g[n].dtype), v)
        yield {n: v.asnumpy().copy() for n, v in arrays.items()}


def update_graph(file: str, graph: str, grads: list[Arrays], lr: float) -> Iterator[Arrays]:
    """A plain onnxruntime session on the emitted graph, fed by the contract's names."""
    import onnxruntime as ort
    from safetensors.numpy import load_file

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    tensors = {k.replace("/", "."): v for k, v in load_file(file).items()}
    names = [o.name for o in session.get_outputs()]
    feeds: dict[str, Any] = {i.name: tensors[i.name] for i in session.get_inputs() if i.name in tensors}
    import optexport as ox

    feeds["step"] = np.array(max(ox.load(file).steps.values()), np.int64)
    for g in grads:
        feeds |= {f"{n}.grad": v for n, v in g.items()}
        out = dict(zip(names, session.run(None, {**feeds, "lr": np.array(lr, np.float32)}), strict=True))
        feeds |= {k.removesuffix(".new"): v for k, v in out.items()}
        yield {n: out[f"{n}.new"] for n in g}
