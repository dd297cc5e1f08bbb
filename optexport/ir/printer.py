"""A program as equations in fixed symbols, one line a named value.

New values carry a prime: ``m' = β1·m + (1 − β1)·g``. Values that a rule named with ``let``, and
values that are used more than once, get a line of their own.
"""

from __future__ import annotations

from collections import Counter

from .ops import OPS
from .program import Input, Node, Program

__all__ = ["SYMBOLS", "equations"]

# The symbols of optexport's documentation, one a quantity, in every rule the same.
SYMBOLS: dict[str, str] = {
    "param": "w",
    "grad": "g",
    "lr": "η",
    "weight_decay": "λ",
    "post_decay": "λ_post",
    "momentum": "μ",
    "dampening": "τ",
    "beta1": "β1",
    "beta2": "β2",
    "alpha": "α",
    "eps": "ε",
    "lr_decay": "γ",
    "rescale_grad": "r",
    "clip_gradient": "C",
    "clip_weights": "C_w",
    "momentum_buffer": "B",
    "exp_avg": "m",
    "exp_avg_sq": "v",
    "max_exp_avg_sq": "v_max",
    "square_avg": "n",
    "grad_avg": "a",
    "sum": "s",
    "m_hat": "m̂",
    "v_hat": "v̂",
    "g_eff": "ĝ",
    "w_decayed": "w̃",
    "step_size": "η_t",
    "denominator": "d",
    "mu_product": "P",
    "product": "P_k",
    "mu_next": "μ_next",
    "momentum_decay": "ψ",
    "tensors": "N",
    "place": "k",
    "exp_inf": "u",
    "exp_avg_var": "s",
    "surprise": "e",
    "norm_sq": "n",
    "eps_root": "ε_root",
    "threshold": "ρ_min",
    "rho_inf": "ρ∞",
    "r": "r_t",
    "c1_next": "c1_next",
    "rho": "ρ",
    "delta": "δ",
    "acc_delta": "d_δ",
    "l1": "λ1",
    "l2": "λ2",
    "beta": "β",
    "power": "p",
    "shrinkage": "λs",
    "linear": "z",
    "accumulator": "n",
    "weight_sum": "d",
    "wd_lh": "λ_h",
    "lamda": "λ0",
    "lambd": "λ0",
    "t0": "t_0",
    "prev": "g_prev",
    "previous_weight": "w_prev",
    "noise": "ξ",
    "etaplus": "η_up",
    "etaminus": "η_down",
    "step_size_min": "Δ_min",
    "step_size_max": "Δ_max",
    "step_length": "Δ",
    "eta": "η_t",
    "mu": "μ_t",
    "ax": "w̄",
    "batch_scale": "N_batch",
    "warmup_calls": "N_warm",
    "first_call": "N_0",
    "call": "N",
    "cum_grad": "G",
    "g_mean": "ḡ",
    "direction": "u",
    "lower_bound": "l",
    "upper_bound": "h",
    "ratio": "φ",
    "trust_coefficient": "c",
    "layer_rate": "η_L",
    "beta2_decay": "κ",
    "fresh": "b̄",
    "eps1": "ε1",
    "eps2": "ε2",
    "clip_threshold": "d_max",
    "rms": "rms_w",
    "row_var": "R_row",
    "col_var": "R_col",
    "largest_var": "R_largest",
    "second_var": "R_second",
    "variance": "V",
    "step_avg": "e",
    "cover": "ν",
    **{f"cover_{i}": f"μ_{i}" for i in range(5)},
    "ns_a": "a",
    "ns_b": "b",
    "ns_c": "c",
    "rms_scale": "s_rms",
    "adam_eps": "ε_A",
    "adam_eps_root": "ε_Aroot",
    "adam_lr_ratio": "η_A",
    "adam_weight_decay": "λ_A",
    "weight": "q",
    "weight_total": "Q",
    "weight_lr_power": "p",
    "max_lr": "η_max",
    "warmup_steps": "T",
    "average": "x",
    "exp_avg_diff": "q",
    "previous_grad": "r_prev",
    "diff": "Δ_g",
    "beta3": "β3",
    "optimism_gain": "α_o",
    "optimism": "β_o",
    "min_norm": "n_min",
    "noise_variance": "ν",
    "noise_decay": "γ_ν",
    "spread": "σ",
    "shrink": "κ_w",
    "z": "z",
    "hessian": "h",
    "damping": "ε",
    "curvature": "c_h",
    "least_curvature": "ε_c",
    "gradient_differences": "Y",
    "parameter_differences": "S",
    "last_grad": "g_last",
    "last_param": "w_last",
    "last_step": "s_last",
    "iterations": "n_it",
    "tolerance_grad": "τ_g",
    "tolerance_change": "τ_w",
    "accumulated_grad": "g_acc",
    "accumulation_steps": "K",
    "max_norm": "C_norm",
    "max_norm_eps": "ε_norm",
    "updates": "n_up",
    "bad_updates": "n_bad",
    "max_bad_updates": "N_bad",
    "loss_scale": "S_loss",
    "growth_factor": "f_up",
    "backoff_factor": "f_down",
    "growth_interval": "N_up",
    "growth_tracker": "n_calm",
    "slow_weights": "w_slow",
    "slow_step_size": "α_slow",
    "sync_period": "T_slow",
    "weight_average": "w_avg",
    "average_decay": "ρ_avg",
    "average_period": "T_avg",
}


def equations(program: Program) -> list[str]:
    """One equation a line, in the order in which the rule computes them."""
    live = program.used()
    uses = Counter(a for i in live for a in program.nodes[i].args)
    outputs = {i: o for o, i in program.outputs.items()}
    names: dict[int, str] = {}
    lines: list[str] = []
    taken = {_input_symbol(i) for i in program.inputs()}
    anonymous = 0
    for i in sorted(live):
        node = program.nodes[i]
        if node.op in ("input", "const"):
            continue
        if _is_t(program, node):
            names[i] = "t"
        elif i in outputs:
            names[i], text = _symbol(outputs[i]) + "'", _text(program, i, names, top=True)
            lines.append(f"{names[i]} = {text}")
        elif node.label or (uses[i] > 1 and not _trivial(program, node)):
            anonymous += not node.label
            text = _text(program, i, names, top=True)
            names[i] = _untaken(_symbol(node.label), taken) if node.label else f"x{anonymous}"
            lines.append(f"{names[i]} = {text}")
    # An output that is an input unchanged, or shares a node with another output.
    for o, i in program.outputs.items():
        target = _symbol(o) + "'"
        if names.get(i) != target:
            lines.append(f"{target} = {_text(program, i, names, top=True)}")
    return lines


def _symbol(name: str) -> str:
    return SYMBOLS.get(name, name)


def _input_symbol(given: Input) -> str:
    return "t" if given.role == "step" else _symbol(given.name or given.role)


def _untaken(symbol: str, taken: set[str]) -> str:
    """A symbol of one value only: ``t`` counts calls, so the updates of a rule that accumulates are ``t_2``."""
    n, out = 2, symbol
    while out in taken:
        n, out = n + 1, f"{symbol}_{n}"
    taken.add(out)
    return out


def _is_t(program: Program, node: Node) -> bool:
    """``step + 1``: the number of the update in progress."""
    if node.op != "add":
        return False
    a, b = (program.nodes[i] for i in node.args)
    if a.op == "const":
        a, b = b, a
    return isinstance(a.attr, Input) and a.attr.role == "step" and b.op == "const" and b.attr == 1.0


def _trivial(program: Program, node: Node) -> bool:
    """Cheap to read in place: a negation or ``1 − β`` of an input."""
    return all(program.nodes[a].op in ("input", "const") for a in node.args) and not node.type.is_tensor


def _text(program: Program, i: int, names: dict[int, str], top: bool = False, binding: int = 0) -> str:
    node = program.nodes[i]
    if i in names and not top:
        return names[i]
    if isinstance(node.attr, Input):
        if node.attr.role == "step":
            return "(t − 1)" if binding > 4 else "t − 1"
        return _symbol(node.attr.name or node.attr.role)
    if node.op == "const":
        return _number(float(node.attr), binding)  # type: ignore[arg-type]
    op = OPS[node.op]
    if node.op == "expand":
        return _text(program, node.args[0], names, binding=binding)
    if node.op == "mul" and node.args[0] == node.args[1]:
        return _text(program, node.args[0], names, binding=9) + "²"
    if op.binding == 9:
        parts = [_text(program, a, names) for a in node.args]
    else:
        parts = [
            _text(program, a, names, binding=_operand_binding(program, node, k))
            for k, a in enumerate(node.args)
        ]
    text = op.text.format(*parts, attr=node.attr)
    return f"({text})" if binding > op.binding else text


def _shown(program: Program, i: int) -> Node:
    """The operation that is written for a node: a declared shape is not."""
    node = program.nodes[i]
    return _shown(program, node.args[0]) if node.op == "expand" else node


def _operand_binding(program: Program, node: Node, k: int) -> int:
    """How tightly operand ``k`` must bind to stand without parentheses."""
    op, operand = OPS[node.op], _shown(program, node.args[k]).op
    # Products of matrices and of elements are never read as one: c·(a @ b), (c·a) @ b.
    if (node.op == "matmul" and operand in ("mul", "div")) or (
        operand == "matmul" and node.op in ("mul", "div")
    ):
        return op.binding + 1
    # At equal binding the right operand of − and / needs them, the base of a power, and a quotient
    # that is multiplied: (a / b)·c.
    if node.op == "mul":
        return op.binding + (k == 0 and operand == "div")
    return op.binding + (not op.commutes and (k == 0) == (node.op == "pow"))


def _number(value: float, binding: int) -> str:
    """A constant, all of its digits that count; a negative operand in parentheses."""
    short = f"{value:g}"
    text = (short if float(short) == value else repr(value)).replace("inf", "∞")
    if text[0] != "-":
        return text
    return f"(−{text[1:]})" if binding else f"−{text[1:]}"
