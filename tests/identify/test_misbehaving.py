"""What cannot be identified is told in a sentence; what lies about its name is found out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from optexport.cli import main
from optexport.errors import UnknownNameError
from optexport.identify import identify
from optexport.parity.subjects import SubjectError

torch = pytest.importorskip("torch")


class Base(torch.optim.Optimizer):  # type: ignore[misc, name-defined]
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def each(self, p: Any) -> None:
        raise NotImplementedError

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.each(p)


class Raises(Base):
    def each(self, p: Any) -> None:
        raise RuntimeError("no such kernel")


class GivesNan(Base):
    def each(self, p: Any) -> None:
        p.sub_(torch.log(-torch.ones_like(p)))


class Reshapes(Base):
    def each(self, p: Any) -> None:
        p.data = p.data.reshape(-1)


class Draws(Base):
    def each(self, p: Any) -> None:
        p.sub_(0.1 * torch.randn_like(p))


class Still(Base):
    def each(self, p: Any) -> None:
        pass


class Searches(Base):
    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any) -> None:  # type: ignore[override]
        for _ in range(2):
            closure()


class Adam(Base):
    """It is plain descent, whatever it is called."""

    def each(self, p: Any) -> None:
        p.sub_(self.param_groups[0]["lr"] * p.grad)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Raises, r"Raises: raises at step 1: RuntimeError: no such kernel"),
        (GivesNan, r"GivesNan: gives NaN or infinity at step 1, on finite gradients"),
        (Reshapes, r"Reshapes: changes the shape of a parameter at step 1: expected \(7, 5\), found \(35,\)"),
        (Draws, r"Draws: is not deterministic: two runs on the same gradients part at step 1"),
        (Still, r"Still: does not change the parameters in 16 steps; is its learning rate 0\?"),
        (Searches, r"Searches: needs a closure and evaluates it 2 times a step"),
    ],
)
def test_sentence(kind: type[Base], message: str) -> None:
    with pytest.raises(SubjectError, match=message):
        identify(kind)


def test_liar_is_found_out() -> None:
    found = identify(Adam, {"lr": 0.25})
    assert found.matches
    assert found.rule == "sgd"
    assert found.hyperparameters == {"lr": 0.25}


def test_hints_decide_nothing() -> None:
    """Without them the numbers say the same."""
    given = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.05}
    a, b = (identify(torch.optim.AdamW, given, hints=h) for h in (True, False))
    assert a == b
    assert a.rule == "adamw"
    assert a.hyperparameters == {"lr": 0.02, "beta1": 0.8, "beta2": 0.95, "eps": 1e-4, "weight_decay": 0.05}


def test_rules_that_are_one_are_told_as_one() -> None:
    found = identify(torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.0})
    assert found.rule == "adam"
    assert "adamw with weight_decay 0" in found.alternatives


def test_fold_of_the_rate_is_told_by_changing_it() -> None:
    found = identify(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
    assert found.options["momentum"] == "unfolded"
    assert found.notes == ()


def test_no_such_thing() -> None:
    with pytest.raises(UnknownNameError, match=r"torch\.optim:Adm: torch\.optim has no 'Adm'"):
        identify("torch.optim:Adm")
    with pytest.raises(UnknownNameError, match=r"expected MODULE:CLASS, as in torch\.optim:Adam"):
        identify("adam")


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as code:
        main(["identify", "torch.optim:Adam", "--args", '{"lr": 0.02, "eps": 1e-4}', "--json"])
    assert code.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert {"matches", "rule", "options", "hyperparameters", "nearest", "differs"} <= set(told)
    assert told["rule"] == "adam"
    assert told["hyperparameters"] == {"lr": 0.02, "beta1": 0.9, "beta2": 0.999, "eps": 1e-4}


def test_command_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as code:
        main(["identify", "torch.optim:SGD", "--args", '{"lr": 0.1, "momentum": 0.9}'])
    assert code.value.code == 0
    out = capsys.readouterr().out
    assert "momentum\n" in out
    assert "hyperparameters: lr 0.1, momentum 0.9" in out
    with pytest.raises(SystemExit) as code:
        main(["identify", "torch.optim:SGD", "--args", "[1]"])
    assert code.value.code == 2
    assert "expected a JSON object" in capsys.readouterr().err
