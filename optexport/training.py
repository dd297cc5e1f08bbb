"""Training graphs: forward, loss, gradient and update in one plain ONNX graph.

This file is the door; ``converters/onnx/training_graph.py`` does the work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .dialects import converter
from .errors import UnknownNameError
from .specs import Spec

if TYPE_CHECKING:
    import onnx

    from .state.training import TrainingState
    from .translation import Report

    Trainer: Any  # the class of converters/onnx/runtime.py

__all__ = ["training_artifacts", "training_graph", "training_info"]


def __getattr__(name: str) -> Any:
    if name != "Trainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return converter("onnx", "runtime").Trainer


# What a caller states about the model; the rest are options of the graph.
_MEANT = ("train", "freeze", "tied", "frozen_rows", "batch_norm", "dropout", "expected")


def training_graph(
    forward: onnx.ModelProto | str | os.PathLike[str],
    loss: str,
    spec: Spec,
    *,
    loss_options: Mapping[str, Any] | None = None,
    output: str | None = None,
    runtime: Sequence[str] | None = None,
    steps: Mapping[str, int] | None = None,
    keep: Sequence[str] = (),
    compute: str | None = None,
    **meant: Any,
) -> onnx.ModelProto:
    """One training step of ``forward`` as a graph of plain ``ai.onnx`` operators, for any onnxruntime.

    forward: a forward model, or its path. loss: ``softmax_cross_entropy``, ``bce_with_logits``, ``mse``, ``l1``,
        ``huber``, ``kl_divergence``, or ``output`` where the model's own output is the scalar.
    spec: the optimizer. loss_options, output, runtime, steps, keep, compute: see
        ``converters/onnx/training_graph.py``.
    meant: what the file does not say: ``train``, ``freeze``, ``tied``, ``frozen_rows``, ``batch_norm``,
        ``dropout``, ``expected``; see ``converters/onnx/training/forward.py``.

    Inputs of the graph are the model's own, ``label``, the parameters, slots, ``step`` and runtime hyperparameters;
    outputs are ``loss`` first, then the updated tensors with ``.new`` at the end of their names.

    Raises:
        ModelError: the model cannot be trained as it stands; the message names the node or tensor.
        UnknownNameError, HyperparameterError: of the loss, the spec or an option.
    """
    made = converter("onnx", "training_graph")
    model: onnx.ModelProto = made.training_graph(
        forward,
        loss,
        spec,
        loss_options=loss_options,
        output=output,
        meant=_meant("training_graph", meant),
        runtime=runtime,
        steps=steps,
        keep=keep,
        compute=compute,
    )
    return model


def training_info(
    forward: onnx.ModelProto | str | os.PathLike[str],
    loss: str,
    spec: Spec | None = None,
    *,
    state: TrainingState | None = None,
    loss_options: Mapping[str, Any] | None = None,
    output: str | None = None,
    runtime: Sequence[str] | None = None,
    **meant: Any,
) -> onnx.ModelProto:
    """The same training in ONNX' own form: ``forward`` with a ``TrainingInfoProto``, state included.

    spec: of a fresh run; or state: of a run that goes on (its parameters' values replace the model's). The
    others as for `training_graph`. `load` reads such a file back into a state.

    Raises:
        ModelError: as `training_graph`, or ``state`` is of another model.
    """
    model: onnx.ModelProto = converter("onnx", "training_info").build_training_info(
        forward,
        loss,
        spec,
        state=state,
        loss_options=loss_options,
        output=output,
        meant=_meant("training_info", meant),
        runtime=runtime,
    )
    return model


def training_artifacts(
    forward: onnx.ModelProto | str | os.PathLike[str],
    loss: str,
    state: TrainingState | Spec,
    folder: str | os.PathLike[str],
    *,
    optimizer: str | None = None,
    allow: str | None = None,
    loss_options: Mapping[str, Any] | None = None,
    output: str | None = None,
    keep: Sequence[str] = (),
    **meant: Any,
) -> tuple[list[str], Report]:
    """The four files of ``onnxruntime.training.api``, from which that build goes on; and what the move cost.

    state: of a run that goes on, its parameters' values replacing the model's; or the spec of a fresh one.
    optimizer: ``onnxruntime:AdamWOptimizer`` or ``onnxruntime:SGDOptimizerV2``; found by the rule where None.
    allow: as for `translate`. The others as for `training_graph`.

    The API starts with the learning rate 1e-3 whatever the files say: ``Optimizer.set_learning_rate`` first.

    Raises:
        VerdictError: the API has no such optimizer. ModelError, CheckpointError: as `training_info`, or the
            files cannot be written.
    """
    from .translation import translate

    info, options = converter("onnx", "training_info"), _meant("training_artifacts", meant)
    run: TrainingState = state if not isinstance(state, Spec) else info.fresh_state(
        forward, loss, state, meant=options, loss_options=loss_options, output=output
    )  # fmt: skip
    families = {g.rule.family for g in run.spec.groups}
    target = optimizer or f"onnxruntime:{'SGDOptimizerV2' if families == {'sgd'} else 'AdamWOptimizer'}"
    moved, report = translate(run, to=target, allow=allow)
    paths: list[str] = converter("onnx", "artifacts").write_artifacts(
        forward, loss, moved, folder, meant=options, keep=keep, output=output, loss_options=loss_options
    )
    return paths, report


def _meant(caller: str, meant: Mapping[str, Any]) -> Any:
    unknown = [m for m in meant if m not in _MEANT]
    if unknown:
        raise UnknownNameError(
            f"{caller}: unknown option {unknown[0]!r}; expected one of {', '.join(_MEANT)}"
        )
    return converter("onnx", "training_graph").Meant(**meant)
