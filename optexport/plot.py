"""Loss curves as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import OptexportError
from .state.files import whole_or_nothing

__all__ = ["check_plot", "loss_plot"]

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
