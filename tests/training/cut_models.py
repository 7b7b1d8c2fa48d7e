"""A program for test_cut.py: each family cut over processes, beside the whole model in one process.

Arguments: a folder for the results, and layouts such as `2/shard/1/gpt,bert`: processes, whether weights are sharded,
processes that compute a layer together, families.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from forked import run

from regard.models.catalog import MODELS
from regard.sequences import Sequences
from regard.training.averaging import averaging_of
from regard.training.cut import CutPlacement
from regard.training.loop_recipe import Training
from regard.training.objectives import smoothed_cross_entropy
from regard.training.optimizers import optimizers_of
from regard.training.placement import Placement
from regard.training.recipe_parts import Processes
from regard.training.workers import Share, Workers, join_workers, leave_workers

WORDS = 37
CONFIGS = {
    "transformer": {"d_model": 16, "attention_heads": 4, "ffn_dim": 20, "encoder_layers": 2, "decoder_layers": 2},
    "t5": {"d_model": 16, "d_kv": 6, "num_heads": 4, "d_ff": 20, "encoder_layers": 2, "decoder_layers": 2},
    "gpt": {"n_embd": 16, "n_head": 4, "n_layer": 2, "n_inner": 20, "normalize_before": True},
    "llama": {
        "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 20, "attention_bias": True,
    },
    "bert": {
        "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 20,
        "heads": ("masked_words",), "pooler": None,
    },
    "albert": {
        "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 20,
        "embedding_size": 8, "heads": ("masked_words",), "pooler": None,
    },
    "seq2seq": {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 2},
    "rnnsearch": {"embedding_size": 8, "hidden_size": 12, "attention_size": 10, "maxout_size": 6},
    "awd_lstm": {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 2, "dropout_multiplier": 0.0},
}  # fmt: skip


class Toy:
    """A task of random texts: what follows each token, or answers to other texts."""

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type

    def make(self):
        torch.manual_seed(5)
        kind = MODELS[self.model_type]
        config = kind.config_class.model_validate({"vocab_size": WORDS, **CONFIGS[self.model_type]})
        without = {name: 0.0 for name in type(config).model_fields if "drop" in name and "classifier" not in name}
        return kind(config.model_copy(update=without)).train()

    def batch(self, chosen):
        texts = [
            torch.from_numpy(np.random.default_rng(int(one)).integers(3, WORDS, 3 + int(one) % 5)) for one in chosen
        ]
        return Sequences.of(texts)

    def loss(self, model, batch, smoothing):
        if self.model_type in ("transformer", "t5", "seq2seq", "rnnsearch"):
            logits = model(batch, batch.with_values(batch.values * 5 % WORDS))
        elif self.model_type in ("bert", "albert"):
            logits = model.words(model.hidden(batch).values)
        elif self.model_type == "awd_lstm":
            logits = model.logits(model.read(batch, None).dropped.values)
        else:
            logits = model(batch)
        return smoothed_cross_entropy(logits, (batch.values * 3 + 1) % WORDS, smoothing)


def learnt(placement, toy, training, steps=3):
    """Losses, gradient norms and the whole model's mean weights after some steps."""
    optimizers = optimizers_of(placement.model, training)
    placement.take(optimizers)
    averaging = averaging_of(placement.parameters(), optimizers, training)
    told = []
    for step in range(steps):
        chosen = np.arange(1 + 7 * step, 8 + 6 * step)
        share = Share()
        parts = [(toy.batch(part), counts) for part, counts in placement.parts(chosen, 2)]
        share.predictions = sum(len(batch.values) for batch, counts in parts if counts)
        for batch, counts in parts:
            predictions = len(batch.values) if counts else 0
            loss, plain = placement.loss(batch, 0.1)
            placement.backward(loss, predictions, share.predictions)
            share.read += float(plain) * predictions
        done = placement.sum(share)
        told += [done.loss, placement.clip(0.5)]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        averaging.after_step()
    with averaging.averaged():
        model = placement.whole()
        weights = None if model is None else {name: one.clone() for name, one in model.state_dict().items()}
    return told, weights


def compared(shard: bool, together: int, families: list[str]) -> dict[str, dict]:
    """Of each family what it came to, cut and whole."""
    training = Training(weight_decay=0.1, ema_decay=0.5, adam_epsilon=1e-3)
    workers = join_workers("cpu")
    workers.together, rows = together, {}
    for family in families:
        toy = Toy(family)
        model = toy.make()
        cut = CutPlacement(toy, model, Processes(shard=shard, tensor_parallel=together), workers, torch.device("cpu"))
        here = sum(part.numel() for part in cut.parameters().values())
        ours, weights = learnt(cut, toy, training)
        if workers.leads:
            theirs, right = learnt(Placement(toy, toy.make(), Workers()), toy, training)
            assert weights.keys() == right.keys()
            furthest = max(float((weights[name] - right[name]).abs().max()) for name in right)
            share = here / toy.make().count_parameters()
            rows[family] = {"ours": ours, "theirs": theirs, "furthest": furthest, "share": share}
    leave_workers()
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first optimiser imports a lot: before the processes are forked
    for number, layout in enumerate(sys.argv[2:]):
        count, shard, together, families = layout.split("/")
        act = partial(compared, shard == "shard", int(together), families.split(","))
        run(int(count), act, Path(sys.argv[1]) / f"{number}.json")
