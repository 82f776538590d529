"""The function whose gradients span ATTITTUD's subspace, against Algorithm 1 computed from plain backward passes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from torch import Tensor, nn

from raysearch.config.search_config import Search
from raysearch.distributed import ProcessGroup
from raysearch.methods.profiles import bundle
from raysearch.methods.weighting.base import END_TASK
from raysearch.modalities.opening import prepare
from raysearch.plan import TrialPlan
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import Trial

PAPER = bundle("paper", {"weighting": "eta_prim", "surgery": "attittud"})
ETA = {"eta_perp": 0.7, "eta_pos": 1.3, "eta_neg": -0.6}


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


@pytest.fixture(scope="module")
def image_plan(tmp_path_factory: pytest.TempPathFactory) -> TrialPlan:
    """A plan of a network with BatchNorm and no dropout."""
    folder = tmp_path_factory.mktemp("digits") / "data"
    search = Search.from_dict(
        {
            "name": "x",
            "task": "digits",
            "model": {"image": "small_cnn", "widths": [4, 8], "norm": "batch"},
            "space": "auxiliary_label",
            "method": {"weighting": "eta_prim", "surgery": "attittud"},
            "settings": {"steps": 4, "batch_size": 6, "aux_batch_size": 6, "k": 3, "dropout": 0.0, **ETA},
            "profile": "paper",
        }
    )
    prepared = prepare(search.task, search.stored_for.to_plain(), folder)
    return search.resolve("search", {}, number=0, seed=0, data=str(folder), labels=list(prepared.labels))


class Step:
    """The gradients of one step: the update's, each side's as it was computed, and the end task's examples."""

    def __init__(self, plan: TrialPlan, folder: Path, number: int = 1) -> None:
        self.trial = Trial(plan, TrialFolder(folder), ProcessGroup())
        surgery, forward = self.trial.update.surgery, self.trial.update.forward
        assert surgery is not None
        losses: dict[int, Tensor] = {}
        self.body = self.trial.network.body_parameters()
        compute = forward.losses

        def recorded(batches: Any) -> Any:
            computed = compute(batches)
            for task, loss in computed.items():
                g = torch.autograd.grad(loss, self.body, retain_graph=True, allow_unused=True, materialize_grads=True)
                losses[task] = torch.cat([part.flatten() for part in g]).double()
            return computed

        forward.losses = recorded  # type: ignore[method-assign]
        for at in range(1, number + 1):
            self.trial.update(self.trial.phases[0], at)
        self.tasks = losses
        self.update = torch.cat([p.grad.flatten() for p in self.body]).double()
        size = plan.training.batch_size
        self.rows = self.trial.update.batches.order.rows((number - 1) * size, size)

    def jacobian(self, *, batch_statistics: bool = False) -> Tensor:
        """One backward pass an example, without dropout; BatchNorm by the whole batch or by running statistics."""
        network, context = self.trial.network, self.trial.update.context
        network.eval()
        for layer in network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and batch_statistics:
                layer.train()
                layer.momentum = 0.0
        batch = context.batches.end_task_batch(context.splits("train"), self.rows)
        logits = network.logits(network.hidden(*batch.inputs), batch.targets.real)
        losses = nn.functional.cross_entropy(logits, batch.targets.labels, reduction="none")
        rows = []
        for loss in losses:
            g = torch.autograd.grad(loss, self.body, retain_graph=True, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([part.flatten() for part in g]))
        return torch.stack(rows).double()


def distance(g: Tensor, expected: Tensor) -> float:
    """The norm of the difference, over that of what is expected."""
    return float((g - expected).norm() / expected.norm())


def algorithm_1(g_aux: Tensor, J: Tensor, k: int) -> Tensor:
    """The paper's surrogate gradient, line by line."""
    g_prim = J.mean(dim=0)
    V = torch.linalg.svd(J, full_matrices=False).Vh[:k]
    p_prim, p_aux = V @ g_prim, V @ g_aux
    helps = (p_prim * p_aux >= 0).double()
    g_pos, g_neg = (p_aux * helps) @ V, (p_aux * (1 - helps)) @ V
    g_perp = g_aux - (g_pos + g_neg)
    return ETA["eta_perp"] * g_perp + ETA["eta_pos"] * g_pos + ETA["eta_neg"] * g_neg


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5])
def test_profile_paper_is_algorithm_1_at_any_dropout(data: Path, tmp_path: Path, dropout: float) -> None:
    settings: dict[str, Any] = PAPER | ETA | {"basis": "exact", "k": 3, "eta_prim": 0.3, "dropout": dropout}
    step = Step(tiny_plan(data, "eta_prim", "attittud", **settings), tmp_path)
    auxiliaries = torch.stack([g for task, g in step.tasks.items() if task != END_TASK])
    expected = algorithm_1(auxiliaries.mean(dim=0), step.jacobian(), 3) + 0.3 * step.tasks[END_TASK]
    assert distance(step.update, expected) < 1e-3
    # the default compares with the gradient of the step, which has dropout
    usual = Step(tiny_plan(data, "eta_prim", "attittud", **settings | {"sign_gradient": "step"}), tmp_path / "usual")
    assert distance(usual.update, expected) < 1e-3 or dropout > 0
    assert distance(usual.update, expected) > 1e-3 or dropout < 0.5


def test_sign_gradient_between_bases_is_of_the_present_batch(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = PAPER | ETA | {"basis": "exact", "k": 3, "basis_every": 3, "dropout": 0.3}
    step = Step(tiny_plan(data, "eta_prim", "attittud", micro_batches=2, **settings), tmp_path, number=2)
    basis = step.trial.update.basis
    assert basis is not None
    (mean,) = basis.at_step(2, torch.Generator()).mean_gradients()
    torch.testing.assert_close(mean.double(), step.jacobian().mean(dim=0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("basis", ["exact", "range_finder"])
def test_basis_of_batch_norm_is_of_the_gradient_that_is_cut(image_plan: TrialPlan, tmp_path: Path, basis: str) -> None:
    from dataclasses import replace

    plan = replace(image_plan, settings=image_plan.settings | {"basis": basis})
    step = Step(plan, tmp_path)
    J = step.jacobian(batch_statistics=True)
    torch.testing.assert_close(J.mean(dim=0), step.tasks[END_TASK], rtol=1e-3, atol=1e-6)
    frozen = step.jacobian()
    assert (frozen.mean(dim=0) - step.tasks[END_TASK]).norm() > 0.1 * step.tasks[END_TASK].norm()
    if basis == "exact":
        aux = torch.stack([g for task, g in step.tasks.items() if task != END_TASK]).mean(dim=0)
        eta_prim = float(plan.settings["eta_prim"])
        expected = algorithm_1(aux, J, 3) + eta_prim * step.tasks[END_TASK]
        torch.testing.assert_close(step.update, expected, rtol=1e-3, atol=1e-5)
    at_step = step.trial.update.basis
    assert at_step is not None
    of_basis = at_step.at_step(1, torch.Generator().manual_seed(0))
    of_basis.jacobians()
    (mean,) = of_basis.mean_gradients()
    torch.testing.assert_close(mean.double(), J.mean(dim=0), rtol=1e-3, atol=1e-6)
