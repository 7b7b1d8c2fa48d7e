"""Discriminative rates and gradual unfreezing: the numbers of Howard & Ruder 2018."""

import pytest
import torch
from torch import nn

from regard.models.albert import Albert, AlbertConfig
from regard.models.bert import Bert, BertConfig
from regard.models.gpt import GPT, GPTConfig
from regard.models.ulmfit import Ulmfit, UlmfitConfig
from regard.training.fine_tuning import discriminative_rates, layer_groups, unfreeze, unfrozen_groups
from regard.training.optimizers import optimizers_of
from regard.training.recipe import Training


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
    rates = discriminative_rates(0.1, 3)
    optimizer = torch.optim.SGD([{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)])
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


BERT = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12}
MODELS = {
    "gpt": lambda: GPT(GPTConfig(vocab_size=40, n_positions=9, n_embd=8, n_layer=3, n_head=2, labels=("a", "b"))),
    "bert": lambda: Bert(BertConfig(**BERT, heads=("classification",), labels=("a", "b"))),
    "albert": lambda: Albert(AlbertConfig(**BERT, embedding_size=4, heads=("masked_words",))),
    "ulmfit": lambda: Ulmfit(UlmfitConfig(vocab_size=40, embedding_size=8, hidden_size=8, num_hidden_layers=3)),
}


@pytest.mark.parametrize(("name", "count"), [("gpt", 5), ("bert", 5), ("albert", 3), ("ulmfit", 5)])
def test_layers_are_grouped_from_the_bottom_up(name, count):
    model = MODELS[name]()
    groups = layer_groups(model)
    assert len(groups) == count
    together = [id(parameter) for group in groups for parameter in group]
    assert sorted(together) == sorted(id(parameter) for parameter in model.parameters())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(
        "embedding" in names[id(one)] or "position" in names[id(one)] or "widen" in names[id(one)] for one in groups[0]
    )
    assert not any("layers" in names[id(one)] for one in groups[-1])


@pytest.mark.parametrize("optimizer", ["adam", "muon", "asgd"])
def test_every_parameter_is_updated_once_at_the_rate_of_its_layer(optimizer):
    model = MODELS["gpt"]()
    optimizers = optimizers_of(model, Training(optimizer=optimizer, rate_factor=2.6))
    scales = {id(one): group["scale"] for part in optimizers for group in part.param_groups for one in group["params"]}
    assert len(scales) == sum(len(group["params"]) for part in optimizers for group in part.param_groups)
    for group, rate in zip(layer_groups(model), discriminative_rates(1.0, 5), strict=True):
        assert {scales[id(one)] for one in group} == {rate}
