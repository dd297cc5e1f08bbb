"""Which parameter a piece of state belongs to.

Names come from the file itself, from a list that states the order (``--names``), or from a weights
file (``--model``), whose tensors are matched by shape. A shape that two parameters share tells
nothing: that is an error, never a guess by position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import NamingError
from .limits import parse_json
from .native import Weights

__all__ = ["check_shapes", "match_by_shape", "names_from_list", "parameters", "read_names"]

Shape = tuple[int, ...]
# Tensors of a state_dict that no optimizer updates (torch.nn normalisation layers).
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def parameters(weights: Weights) -> dict[str, Shape]:
    """Name -> shape of the tensors that an optimizer may hold: real, no running statistic, nor frozen."""
    return {
        name: tuple(a.shape)
        for name, a in weights.tensors.items()
        if name.rpartition(".")[2] not in _BUFFERS
        and name not in weights.fixed
        and (a.dtype.kind == "f" or a.dtype.kind == "V")
    }


def read_names(path: str) -> list[str]:
    """Names in the order the optimizer was given its parameters.

    The file: a JSON list of names, a JSON list of one list a group, or one name a line.

    Raises:
        NamingError: it is none of these, or a name occurs twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NamingError(f"{path}: no such file; expected a list of parameter names") from None
    except (OSError, UnicodeDecodeError):
        raise NamingError(
            f"{path}: expected a JSON list of names or one name a line, found no readable text"
        ) from None
    if text.lstrip().startswith("["):
        try:
            value = parse_json(text)
        except (ValueError, RecursionError) as e:
            raise NamingError(f"{path}: expected a JSON list of names: {e}") from None
        names = [n for item in value for n in (item if isinstance(item, list) else [item])]
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    bad = [n for n in names if not isinstance(n, str)]
    if bad:
        raise NamingError(f"{path}: expected names, found {bad[0]!r}")
    _check_once(names, path)
    return names


def _check_once(names: Sequence[str], where: str) -> None:
    twice = sorted(n for n, count in Counter(names).items() if count > 1)
    if twice:
        raise NamingError(f"{where}: {twice[0]!r} occurs twice; expected each parameter once")


def names_from_list(keys: Sequence[str], names: Sequence[str], where: str) -> dict[str, str]:
    """File key -> name, by the stated order.

    Raises:
        NamingError: the counts differ, or a name occurs twice.
    """
    _check_once(names, where)
    if len(keys) != len(names):
        raise NamingError(
            f"{where}: holds {len(keys)} parameters, the list of names has {len(names)}; "
            "list every parameter the optimizer was given, in that order"
        )
    return dict(zip(keys, names, strict=True))


def match_by_shape(
    shapes: Mapping[str, Shape | None], model: Mapping[str, Shape], where: str, groups: int = 1
) -> dict[str, str]:
    """File key -> name, where shapes alone decide it.

    shapes: key -> shape of its state, None where the key has none (never updated).
    model: name -> shape of the model's parameters.
    groups: how many parameter groups the keys are in.

    Raises:
        NamingError: a count or shape disagrees, or only order could tell two parameters apart; the
            message lists the candidates.
    """
    if len(shapes) != len(model):
        raise NamingError(
            f"{where}: holds {len(shapes)} parameters, the model has {len(model)} ({_some(model)}); "
            "pass the names of those that the optimizer has with --names"
        )
    out: dict[str, str] = {}
    free = dict(model)
    for key, shape in shapes.items():
        if shape is None:
            continue
        candidates = [n for n, s in model.items() if s == shape]
        if not candidates:
            raise NamingError(
                f"{where}: parameter {key!r}: expected a shape of the model, found {list(shape)}; "
                f"the model has {_some({n: list(s) for n, s in model.items()})}; is it the right model?"
            )
        if len(candidates) > 1:
            raise NamingError(
                f"{where}: parameter {key!r} of shape {list(shape)} may be {' or '.join(candidates)}; only order "
                "tells them apart: state it with --names (a list in the order the optimizer was given them)"
            )
        if candidates[0] not in free:
            raise NamingError(
                f"{where}: two parameters of shape {list(shape)} match {candidates[0]!r}; is it the right model?"
            )
        out[key] = candidates[0]
        del free[candidates[0]]
    rest = [k for k, s in shapes.items() if s is None]
    if len(rest) > 1 and len(rest) != len(shapes):
        raise NamingError(
            f"{where}: parameters {', '.join(rest)} were never updated and have no shape; they may be "
            f"{' or '.join(free)}: state the order with --names"
        )
    if len(rest) > 1 and groups > 1:
        raise NamingError(
            f"{where}: holds no state that could tell which of its {groups} groups a parameter is in; "
            "state the order with --names"
        )
    # No state at all (plain descent): nothing is carried, order is all there is and does no harm
    # within one group.
    return {**out, **dict(zip(rest, free, strict=True))}


def check_shapes(shapes: Mapping[str, Shape | None], model: Mapping[str, Shape], where: str) -> None:
    """Compare named state with a model.

    Raises:
        NamingError: a parameter is missing from the model, or its shape disagrees.
    """
    for name, shape in shapes.items():
        if name not in model:
            raise NamingError(
                f"{where}: parameter {name!r}: expected a parameter of the model ({_some(model)})"
            )
        if shape is not None and shape != model[name]:
            raise NamingError(
                f"{where}: parameter {name!r}: state has shape {list(shape)}, the model {list(model[name])}; "
                "is it the right model?"
            )


def _some(names: Mapping[str, object]) -> str:
    items = [f"{n} {v}" if isinstance(v, list) else n for n, v in names.items()]
    return ", ".join(items[:6]) + (f", … {len(items)} in all" if len(items) > 6 else "")
