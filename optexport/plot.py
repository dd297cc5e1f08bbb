"""Pictures: loss curves, and how two runs part."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import OptexportError
from .state.files import whole_or_nothing

if TYPE_CHECKING:
    from .state.drift import Drift

__all__ = ["check_plot", "drift_plot", "loss_plot"]

_FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: str | os.PathLike[str]) -> str:
    """The format that the file's name means, before an hour of training finds out that there is none.

    Raises:
        OptexportError: the name means none, or matplotlib is not installed.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in _FORMATS:
        raise OptexportError(
            f"{os.fspath(path)}: expected a picture's name, {', '.join(_FORMATS)}, found {suffix or 'no suffix'}"
        )
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise OptexportError(
            f"{os.fspath(path)}: a plot needs matplotlib, which is not installed; run pip install 'optexport[plot]'"
        ) from None
    return suffix[1:]


def loss_plot(
    path: str | os.PathLike[str],
    curves: Mapping[str, Sequence[float]],
    *,
    first_step: int | Mapping[str, int] = 1,
    title: str = "",
) -> None:
    """Write loss over step, one line a curve; whole or not at all.

    curves: name -> losses of successive steps. first_step: the number of the first, of each curve or of all.

    Raises:
        OptexportError: as `check_plot`.
    """
    kind = check_plot(path)
    from matplotlib.figure import Figure

    # A figure of its own: no window, and nothing of the caller's is touched.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    for i, (name, losses) in enumerate(curves.items()):
        first = first_step[name] if isinstance(first_step, Mapping) else first_step
        style = ("-", "--", ":", "-.")[i % 4]
        axes.plot(range(first, first + len(losses)), losses, style, label=name, linewidth=1.5)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    with whole_or_nothing(path) as file:
        figure.savefig(file, format=kind, dpi=120)


# Tensors that a picture names; the others are one grey line each.
_NAMED = 8


def drift_plot(path: str | os.PathLike[str], drift: Drift, *, title: str = "") -> None:
    """Write the relative difference of every tensor over the steps; whole or not at all.

    The axis is logarithmic: where two tensors are the same there is no point, and a tensor that one side lacks has
    none at all.

    Raises:
        OptexportError: as `check_plot`.
    """
    kind = check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    ranked = sorted(drift.tensors, key=lambda t: -(t.largest or 0.0))
    for i, tensor in enumerate(ranked):
        values = [r if r else float("nan") for r in tensor.relative]
        if i < _NAMED:
            style = ("-", "--", ":", "-.")[i % 4]
            axes.plot(
                tensor.steps,
                values,
                style,
                marker=".",
                label=f"{tensor.param} {tensor.slot}",
                linewidth=1.5,
                zorder=3,
            )
        else:
            axes.plot(tensor.steps, values, "-", color="0.8", linewidth=0.8, zorder=1)
    if any(r for t in drift.tensors for r in t.relative):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1)
        axes.text(0.5, 0.5, "no difference", transform=axes.transAxes, ha="center")
    if len(drift.steps) > 1:
        axes.set_xlim(drift.steps[0], drift.steps[-1])
    if drift.parted is not None:
        axes.axvline(drift.parted, color="black", linestyle=":", linewidth=1)
        axes.set_title(f"{title}parted at step {drift.parted}")
    else:
        axes.set_title(f"{title}never parted")
    axes.set_xlabel("step")
    axes.set_ylabel("max|a − b| / max|b|")
    axes.grid(alpha=0.3, which="major")
    if ranked:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    with whole_or_nothing(path) as file:
        figure.savefig(file, format=kind, dpi=120)
