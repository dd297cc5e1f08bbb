"""Resize: every mode and coordinate rule that torch or ONNX' reference evaluator has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .referee import Case, case, check, torch

F = torch.nn.functional


def image(f: str, x: Any, **given: Any) -> Any:
    return F.interpolate(x, mode=f, **given)


def scales(*s: float) -> dict[str, np.ndarray]:
    return {"s": np.array(s, np.float32)}


def sizes(*s: int) -> dict[str, np.ndarray]:
    return {"n": np.array(s, np.int64)}


def _of_torch() -> list[Case]:
    shape = {"x": (2, 3, 4, 5)}
    floor = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    # Cubic coefficients are float32 in ONNX' own definition, in float64 too.
    linear: dict[str, Any] = {"mode": "linear"}
    cubic: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": -0.75, "doubles": False}
    corners = {"coordinate_transformation_mode": "align_corners"}
    half = {"coordinate_transformation_mode": "pytorch_half_pixel"}
    made = [
        case("nearest × 2, 3", "Resize", "x - s", lambda x: image("nearest", x, scale_factor=(2, 3)), shape,
             fixed=scales(1, 1, 2, 3), **floor),
        case("nearest × 2, newer", "Resize", "x - s", lambda x: image("nearest", x, scale_factor=2), shape,
             fixed=scales(1, 1, 2, 2), opset=19, **floor),
        case("nearest to 7 × 3", "Resize", "x - - n", lambda x: image("nearest", x, size=(7, 3)), shape,
             fixed=sizes(2, 3, 7, 3), modes=("static",), **floor),
        case("nearest to 2 × 5", "Resize", "x - - n", lambda x: image("nearest", x, size=(2, 5)), shape,
             fixed=sizes(2, 5), axes=[2, 3], **floor),
        case("nearest × 2 in 1-D", "Resize", "x - s", lambda x: image("nearest", x, scale_factor=2), {"x": (2, 3, 4)},
             fixed=scales(1, 1, 2), **floor),
        case("nearest × 2 in 3-D", "Resize", "x - s", lambda x: image("nearest", x, scale_factor=2),
             {"x": (1, 2, 2, 3, 2)}, fixed=scales(1, 1, 2, 2, 2), **floor),
        case("nearest × 1", "Resize", "x - s", lambda x: x * 1, shape, fixed=scales(1, 1, 1, 1), **floor),
        case("of the channels", "Resize", "x - s", lambda x: x.repeat_interleave(2, 1), shape, fixed=scales(1, 2, 1, 1),
             **floor),
    ]  # fmt: skip
    for kind, given, torchs in (("linear", linear, "bilinear"), ("cubic", cubic, "bicubic")):
        for to in ((8, 10), (3, 7), (2, 2), (4, 9)):
            made.append(case(f"{kind} to {to}", "Resize", "x - - n",
                             lambda x, k=torchs, to=to: image(k, x, size=to, align_corners=False), shape,
                             fixed=sizes(*to), axes=[2, 3], **given, **half))  # fmt: skip
            made.append(case(f"{kind} to {to}, corners aligned", "Resize", "x - - n",
                             lambda x, k=torchs, to=to: image(k, x, size=to, align_corners=True), shape,
                             fixed=sizes(*to), axes=[2, 3], **given, **corners))  # fmt: skip
    made.append(case("linear × 2", "Resize", "x - s", lambda x: image("bilinear", x, scale_factor=2), shape,
                     fixed=scales(1, 1, 2, 2), **linear))  # fmt: skip
    made.append(case("linear × 2 in 1-D", "Resize", "x - s", lambda x: image("linear", x, scale_factor=2), {"x": (2, 3, 4)},
                     fixed=scales(1, 1, 2), **linear))  # fmt: skip
    made.append(case("linear × 1.5", "Resize", "x - s",
                     lambda x: image("bilinear", x, scale_factor=(1.5, 2.5), recompute_scale_factor=False),
                     {"x": (2, 3, 4, 6)},
                     fixed=scales(1, 1, 1.5, 2.5), **linear))  # fmt: skip
    # torch's antialiasing leaves out what is outside of the image; its cubic coefficient is another one then.
    for kind, torchs, given in (
        ("linear", "bilinear", linear),
        ("cubic", "bicubic", {**cubic, "cubic_coeff_a": -0.5}),
    ):
        made.append(case(f"{kind} antialiased to 2 × 3", "Resize", "x - - n",
                         lambda x, k=torchs: image(k, x, size=(2, 3), antialias=True), {"x": (2, 3, 6, 7)},
                         fixed=sizes(2, 3), axes=[2, 3], antialias=1, exclude_outside=1, **given))  # fmt: skip
    return made


def _others() -> list[Case]:
    """Rules that torch does not have: finite differences of ONNX' own definition."""
    made = []
    for rule in ("round_prefer_floor", "round_prefer_ceil", "ceil"):
        made.append(case(f"nearest, {rule}", "Resize", "x - - n", None, {"x": (1, 1, 3, 4)}, fixed=sizes(5, 6),
                         axes=[2, 3], mode="nearest", nearest_mode=rule))  # fmt: skip
    made.append(case("half pixel symmetric", "Resize", "x - s", None, {"x": (1, 1, 3, 4)}, fixed=scales(1, 1, 1.5, 1.3),
                     mode="linear", coordinate_transformation_mode="half_pixel_symmetric", opset=19))  # fmt: skip
    made.append(case("cubic, outside excluded", "Resize", "x - s", None, {"x": (1, 1, 4, 4)}, fixed=scales(1, 1, 1.5, 0.75),
                     mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1))  # fmt: skip
    crop = {"r": np.array([0, 0, 0.25, -0.2, 1, 1, 0.75, 1.2], np.float32), **sizes(1, 1, 3, 5)}
    made.append(case("a region", "Resize", "x r - n", None, {"x": (1, 1, 4, 4)}, fixed=crop, mode="linear",
                     coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=10.0,
                     modes=("static",)))  # fmt: skip
    made.append(case("to one pixel", "Resize", "x - - n", None, {"x": (1, 2, 3, 4)}, fixed=sizes(1, 1), axes=[2, 3],
                     mode="linear", coordinate_transformation_mode="pytorch_half_pixel"))  # fmt: skip
    made.append(case("antialiased", "Resize", "x - - n", None, {"x": (1, 1, 6, 5)}, fixed=sizes(2, 3), axes=[2, 3],
                     mode="linear", antialias=1))  # fmt: skip
    # Its one scale is float32.
    made.append(case("one scale for both, not larger", "Resize", "x - - n", None, {"x": (1, 1, 4, 6)}, fixed=sizes(7, 8),
                     axes=[2, 3], mode="linear", keep_aspect_ratio_policy="not_larger", doubles=False))  # fmt: skip
    return made


CASES = [*_of_torch(), *_others()]


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)
