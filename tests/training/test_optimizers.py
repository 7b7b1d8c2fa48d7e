"""Every parameter has one optimiser, and each optimiser does what its paper says."""

import pytest
import torch
from torch import nn

from regard.training.optimizers import optimizers_of
from regard.training.recipe import Training


def small_model():
    torch.manual_seed(0)
    return nn.ModuleDict({"embedding": nn.Embedding(6, 4), "inner": nn.Linear(4, 8), "norm": nn.LayerNorm(8)})


def update(model, **fields):
    """One step with rate 0.1 and random gradients; returns the gradients."""
    gradients = {}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name] = torch.randn_like(parameter)
    for optimizer in optimizers_of(model, Training(**fields)):
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.step()
    return gradients


@pytest.mark.parametrize("name", ["adam", "muon", "sgd", "asgd", "adadelta"])
def test_every_parameter_is_updated_by_exactly_one_optimizer(name):
    model = small_model()
    optimizers = optimizers_of(model, Training(optimizer=name, learning_rate=0.1))
    held = [id(one) for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]]
    assert sorted(held) == sorted(id(one) for one in model.parameters())


def test_adam_is_the_papers():
    """Against Adam of PyTorch, which has no weight decay here."""
    ours, theirs = small_model(), small_model()
    gradients = update(ours)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.1, betas=(0.9, 0.98), eps=1e-9)
    for name, parameter in theirs.named_parameters():
        parameter.grad = gradients[name].clone()
    adam.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_weight_decay_is_of_matrices_only(name):
    plain, decayed = small_model(), small_model()
    torch.manual_seed(1)
    update(plain, optimizer=name)
    torch.manual_seed(1)
    update(decayed, optimizer=name, weight_decay=0.5)
    before = small_model().state_dict()
    for key, value in decayed.state_dict().items():
        lost = before[key] * 0.1 * 0.5 if key == "inner.weight" else torch.zeros_like(value)
        torch.testing.assert_close(value, plain.state_dict()[key] - lost)


def test_muon_moves_a_matrix_alike_in_all_directions():
    """Its update has singular values near one another, whatever those of the gradient are."""
    model = nn.Linear(16, 16, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.diag(torch.logspace(0, 1, 16))
    [muon] = optimizers_of(model, Training(optimizer="muon"))
    muon.param_groups[0]["lr"] = 1.0
    muon.step()
    moved = (model.weight - before).detach()
    sizes = torch.linalg.svdvals(moved)
    assert sizes.max() / sizes.min() < 2
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)  # the size of Adam's


def test_sgd_moves_by_the_gradient_and_adadelta_by_its_paper():
    """Zeiler 2012, algorithm 1, first step: -sqrt(eps) / sqrt((1 - rho) g^2 + eps) g, with rho 0.95 and eps 1e-6."""
    before = small_model().state_dict()
    model = small_model()
    gradients = update(model, optimizer="sgd", learning_rate=0.1)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, before[name] - 0.1 * gradients[name])
    model = small_model()
    gradients = update(model, optimizer="adadelta", learning_rate=1.0)
    for name, value in model.named_parameters():
        moved = 1e-3 / (0.05 * gradients[name] ** 2 + 1e-6).sqrt() * gradients[name]
        torch.testing.assert_close(value, before[name] - 0.1 * moved)


@pytest.mark.parametrize(
    ("fields", "theirs"),
    [
        ({}, lambda weights: torch.optim.Adam(weights, 0.1, betas=(0.9, 0.98), eps=1e-9)),
        ({"optimizer": "sgd"}, lambda weights: torch.optim.SGD(weights, 0.1)),
        ({"optimizer": "asgd"}, lambda weights: torch.optim.SGD(weights, 0.1)),  # until it averages
        ({"optimizer": "adadelta"}, lambda weights: torch.optim.Adadelta(weights, 0.1, rho=0.95, eps=1e-6)),
    ],
    ids=["adam", "sgd", "asgd", "adadelta"],
)
def test_over_several_steps_each_is_that_of_pytorch(fields, theirs):
    model, other = small_model(), small_model()
    training = Training(learning_rate=0.1, **fields)
    optimizers, right = optimizers_of(model, training), theirs(other.parameters())
    if not fields:
        assert optimizers[0].defaults["fused"]
    for _ in range(5):
        for one, its in zip(model.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            its.grad = one.grad.clone()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * group["scale"]
            optimizer.step()
        right.step()
    for one, its in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, its)
