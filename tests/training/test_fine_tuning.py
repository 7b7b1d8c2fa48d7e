"""Discriminative rates and gradual unfreezing: the numbers of Howard & Ruder 2018."""

import pytest
import torch
from torch import nn

from regard.training.fine_tuning import discriminative_rates, optimizer_groups, unfreeze, unfrozen_groups


def test_each_lower_group_learns_a_26th_as_fast_times_ten():
    assert discriminative_rates(0.01, 3) == pytest.approx([0.01 / 2.6**2, 0.01 / 2.6, 0.01])
    assert discriminative_rates(1.0, 2, factor=10) == [0.1, 1.0]


def test_one_more_group_is_unfrozen_at_each_stage():
    assert [list(unfrozen_groups(3, stage)) for stage in (1, 2, 3, 4)] == [[2], [1, 2], [0, 1, 2], [0, 1, 2]]
    with pytest.raises(ValueError, match="counted from 1"):
        unfrozen_groups(3, 0)


def test_only_what_is_unfrozen_moves_each_group_at_its_rate():
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    groups = [list(layer.parameters()) for layer in layers]
    optimizer = torch.optim.SGD(optimizer_groups(groups, 0.1))
    before = [layer.weight.clone() for layer in layers]
    unfreeze(groups, 2)
    layers(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    moved = [not torch.equal(layer.weight, old) for layer, old in zip(layers, before, strict=True)]
    assert moved == [False, True, True]
    for layer, old, rate in zip(layers[1:], before[1:], (0.1 / 2.6, 0.1), strict=True):
        assert torch.allclose(layer.weight, old - rate * layer.weight.grad)
    unfreeze(groups, 3)
    assert all(parameter.requires_grad for parameter in layers.parameters())
