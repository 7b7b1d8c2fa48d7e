"""Training speed of the systems beside the Transformer: one whole step of each, this package beside peers, in one run.

A step is forward, cross-entropy, backward and AdamW (fused), with the same sizes and texts for everyone, a vocabulary
of 4,000 words, and dropout 0.1 on what enters and leaves layers, none on attention weights; AWD-LSTM has the paper's
five dropouts (fastai's too; the plain one has two), RNNsearch none. Peers are written as their users write them: padded
batches; Hugging Face's models, x-transformers, fastai's AWD-LSTM (fastai 2.7, fastcore 1.7, fastprogress 1.0), or plain
PyTorch where that is what there is. (The Transformer, with further peers: train_step.py.)

Words are random and the answers are the words read: only time is measured.

Texts have log-normal lengths with a mean of about 60 tokens, from 5 to 200 (20 for pairs, to 60). There are three kinds
of batches, the same for all:
    grouped   neighbours in length, as this package's data loader makes them: little padding for anyone. The headline.
    shuffled  random texts, as a plain data loader makes them. Peers compute on padding, this package does not.
    even      streams of 128 tokens, as language models are pre-trained: no padding at all.

Every contender has one thread (`--threads`), lives in a process of its own and waits while another works. A ratio is
the median, over the rounds, of the peer's seconds over this package's for that same batch.

    python benchmarks/train_systems.py --keep             # the table in RESULTS.md
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from side_by_side import Contender, interleaved, keep, ratio

WORDS, WIDTH, DEPTH, HEADS, RATE, TOKENS, HIDDEN = 4000, 256, 4, 8, 0.1, 2048, 0.15
PAIRED = ("seq2seq", "rnnsearch")


def lengths(system: str, kind: str) -> list[int]:
    """Of the texts of one batch."""
    if kind == "even":
        return [128] * (TOKENS // 128)
    mean, longest = (20, 60) if system in PAIRED else (60, 200)
    random = np.random.default_rng(1)
    drawn = np.clip(random.lognormal(math.log(mean) - 0.18, 0.6, 400).round(), 5, longest).astype(int)
    if kind == "grouped":
        drawn.sort()
    begin = 100  # a batch from the middle of those sorted by length
    chosen: list[int] = []
    while sum(chosen) < TOKENS and begin + len(chosen) < len(drawn):
        chosen.append(int(drawn[begin + len(chosen)]))
    return chosen


def make(system: str, peer: str, precision: str, kind: str, threads: int) -> Callable[[], float]:
    """A training step of one contender."""
    import torch

    from regard.sequences import Sequences
    from regard.training.memory import keep_freed_memory

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    if peer == "regard":
        keep_freed_memory()
    texts = Sequences.of([torch.randint(5, WORDS, (count,)) for count in lengths(system, kind)])
    places = (torch.rand(texts.layout.tokens) < HIDDEN).nonzero()[:, 0]
    model, loss = MAKERS[system, peer](texts, places)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found = loss()
        found.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(found.detach())

    return step


# --- this package -----------------------------------------------------------------------------------------------------


def ours(kind: str, texts: Any, places: Any) -> tuple[Any, Callable[[], Any]]:
    from regard.models.catalog import MODELS
    from regard.training.objectives import smoothed_cross_entropy

    sizes: dict[str, dict[str, Any]] = {
        "gpt": {"n_embd": WIDTH, "n_layer": DEPTH, "n_head": HEADS, "attn_pdrop": 0.0, "normalize_before": True},
        "bert": {
            "hidden_size": WIDTH,
            "num_hidden_layers": DEPTH,
            "num_attention_heads": HEADS,
            "intermediate_size": 4 * WIDTH,
            "attention_probs_dropout_prob": 0.0,
            "heads": ("masked_words",),
        },
        "awd_lstm": {"embedding_size": WIDTH, "hidden_size": 2 * WIDTH},
        "seq2seq": {"embedding_size": WIDTH, "hidden_size": WIDTH, "num_hidden_layers": 2, "dropout": RATE},
        "rnnsearch": {
            "embedding_size": WIDTH,
            "hidden_size": WIDTH,
            "attention_size": WIDTH,
            "maxout_size": WIDTH // 2,
        },
    }
    cls = MODELS[kind]
    model: Any = cls(cls.config_class.model_validate({"vocab_size": WORDS, **sizes[kind]}))

    def loss() -> Any:
        if kind == "bert":
            hidden = model.hidden(texts)
            return smoothed_cross_entropy(model.words(hidden.values[places]), texts.values[places], 0.0)[0]
        logits = model(texts, texts) if kind in PAIRED else model(texts)
        logits = logits[0] if isinstance(logits, tuple) else logits
        return smoothed_cross_entropy(logits, texts.values, 0.0)[0]

    return model, loss


# --- peers ------------------------------------------------------------------------------------------------------------


def padded_loss(texts: Any, logits_of: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """Of padded rows: (ids, what is there) to logits."""
    import torch.nn.functional as F

    ids, present = texts.pad(0), texts.layout.present
    answers = ids.masked_fill(~present, -100)

    def loss() -> Any:
        return F.cross_entropy(logits_of(ids, present).flatten(0, 1).float(), answers.flatten(), ignore_index=-100)

    return loss


def hugging_face_gpt(texts: Any, places: Any) -> tuple[Any, Callable[[], Any]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": WIDTH, "n_layer": DEPTH, "n_head": HEADS, "vocab_size": WORDS, "n_positions": 512}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, attn_pdrop=0.0, attn_implementation="sdpa"))
    return model, padded_loss(texts, lambda ids, present: model(ids, attention_mask=present.long()).logits)


def plain_gpt(texts: Any, places: Any) -> tuple[Any, Callable[[], Any]]:
    """A decoder in the fewest lines: padded rows, fused causal attention, padding left to causality."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.asking, self.mixing = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.inner, self.outer = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
            self.drop = nn.Dropout(RATE)

        def forward(self, x: Any) -> Any:
            parts = self.asking(self.first(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(-2)
            x = x + self.drop(self.mixing(mixed))
            inner = F.gelu(self.inner(self.second(x)), approximate="tanh")
            return x + self.drop(self.outer(inner))

    model = nn.ModuleDict({"words": nn.Embedding(WORDS, WIDTH), "places": nn.Embedding(512, WIDTH)})
    model["layers"], model["norm"], model["drop"] = (
        nn.Sequential(*(Layer() for _ in range(DEPTH))),
        nn.LayerNorm(WIDTH),
        nn.Dropout(RATE),
    )

    nn.init.normal_(model["words"].weight, std=0.02)

    def logits_of(ids: Any, present: Any) -> Any:
        x = model["drop"](model["words"](ids) + model["places"](torch.arange(ids.shape[1])))
        return F.linear(model["norm"](model["layers"](x)), model["words"].weight)

    return model, padded_loss(texts, logits_of)


def x_transformers_gpt(texts: Any, places: Any) -> tuple[Any, Callable[[], Any]]:
    """Its decoder as a language model, fused attention; padding left to causality."""
    from x_transformers import Decoder, TransformerWrapper

    sizes = {"dim": WIDTH, "depth": DEPTH, "heads": HEADS, "attn_dim_head": WIDTH // HEADS}
    layers = Decoder(**sizes, attn_flash=True, layer_dropout=0.0, ff_dropout=RATE)
    model = TransformerWrapper(num_tokens=WORDS, max_seq_len=512, emb_dropout=RATE, attn_layers=layers)
    return model, padded_loss(texts, lambda ids, present: model(ids))


def hugging_face_bert(texts: Any, places: Any) -> tuple[Any, Callable[[], Any]]:
    """Scores every position, as the library does; the loss is that of the hidden words."""
    import torch.nn.functional as F
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "vocab_size": WORDS}
    dropped = {"attention_probs_dropout_prob": 0.0, "attn_implementation": "sdpa"}
    model = BertForMaskedLM(BertConfig(**sizes, intermediate_size=4 * WIDTH, **dropped))
    ids, present = texts.pad(0), texts.layout.present
    slots = texts.layout.slots[places]

    def loss() -> Any:
        logits = model(ids, attention_mask=present.long()).logits.flatten(0, 1)[slots]
        return F.cross_entropy(logits.float(), texts.values[places])

    return model, loss


def plain_awd_lstm(texts: Any, places: Any) -> tuple[Any, Callable[[], Any]]:
    """nn.LSTM layers over padded rows, plain dropout between them."""
    import torch.nn.functional as F
    from torch import nn

    widths = [WIDTH, 2 * WIDTH, 2 * WIDTH, WIDTH]
    layers = [nn.LSTM(widths[number], widths[number + 1], batch_first=True) for number in range(3)]
    model = nn.ModuleDict(
        {"words": nn.Embedding(WORDS, WIDTH), "layers": nn.ModuleList(layers), "drop": nn.Dropout(RATE)}
    )

    def logits_of(ids: Any, present: Any) -> Any:
        x = model["drop"](model["words"](ids))
        for layer in layers:
            x = model["drop"](layer(x)[0])
        return F.linear(x, model["words"].weight)

    return model, padded_loss(texts, logits_of)


def fastai_awd_lstm(texts: Any, places: Any) -> tuple[Any, Callable[[], Any]]:
    """fastai's, with its own dropouts, over padded rows; its state is begun anew each time."""
    from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
    from fastai.text.models.core import get_language_model

    sizes = {"emb_sz": WIDTH, "n_hid": 2 * WIDTH, "n_layers": 3}
    model = get_language_model(AWD_LSTM, WORDS, config={**awd_lstm_lm_config, **sizes})

    def logits_of(ids: Any, present: Any) -> Any:
        model.reset()
        return model(ids)[0]

    return model, padded_loss(texts, logits_of)


def plain_seq2seq(texts: Any, places: Any) -> tuple[Any, Callable[[], Any]]:
    """Two nn.LSTM over padded rows."""
    from torch import nn

    reader, writer = (nn.LSTM(WIDTH, WIDTH, 2, batch_first=True, dropout=RATE) for _ in range(2))
    parts = {
        "source": nn.Embedding(WORDS, WIDTH),
        "target": nn.Embedding(WORDS, WIDTH),
        "output": nn.Linear(WIDTH, WORDS),
    }
    model = nn.ModuleDict({**parts, "reader": reader, "writer": writer, "drop": nn.Dropout(RATE)})

    def logits_of(ids: Any, present: Any) -> Any:
        _, state = reader(model["drop"](model["source"](ids)))
        return model["output"](model["drop"](writer(model["drop"](model["target"](ids)), state)[0]))

    return model, padded_loss(texts, logits_of)


def plain_rnnsearch(texts: Any, places: Any) -> tuple[Any, Callable[[], Any]]:
    """A bidirectional nn.GRU, and a loop of nn.GRUCell with additive attention over padded rows."""
    import torch
    from torch import nn

    reader, cell = nn.GRU(WIDTH, WIDTH, batch_first=True, bidirectional=True), nn.GRUCell(3 * WIDTH, WIDTH)
    parts = {
        "source": nn.Embedding(WORDS, WIDTH),
        "target": nn.Embedding(WORDS, WIDTH),
        "first": nn.Linear(WIDTH, WIDTH),
    }
    maps = {"look": nn.Linear(2 * WIDTH, WIDTH), "asking": nn.Linear(WIDTH, WIDTH), "score": nn.Linear(WIDTH, 1)}
    ends = {"inner": nn.Linear(4 * WIDTH, WIDTH), "output": nn.Linear(WIDTH // 2, WORDS)}
    model = nn.ModuleDict({**parts, **maps, **ends, "reader": reader, "cell": cell})

    def logits_of(ids: Any, present: Any) -> Any:
        memory, last = reader(model["source"](ids))
        keys, hidden, words = model["look"](memory), model["first"](last[1]).tanh(), model["target"](ids)
        found = []
        for place in range(ids.shape[1]):
            scores = model["score"]((keys + model["asking"](hidden)[:, None]).tanh())[..., 0]
            weights = scores.masked_fill(~present, -1e4).softmax(-1)
            seen = (weights[:, None].to(memory.dtype) @ memory)[:, 0]
            hidden = cell(torch.cat([words[:, place], seen], -1), hidden)
            found.append(torch.cat([hidden, words[:, place], seen], -1))
        inner = model["inner"](torch.stack(found, 1)).unflatten(-1, (-1, 2)).amax(-1)
        return model["output"](inner)

    return model, padded_loss(texts, logits_of)


def _ours(kind: str) -> Callable[..., Any]:
    return lambda texts, places: ours(kind, texts, places)


MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    **{(kind, "regard"): _ours(kind) for kind in ("gpt", "bert", "awd_lstm", "seq2seq", "rnnsearch")},
    ("gpt", "transformers, sdpa"): hugging_face_gpt,
    ("gpt", "plain PyTorch"): plain_gpt,
    ("gpt", "x-transformers"): x_transformers_gpt,
    ("bert", "transformers, sdpa"): hugging_face_bert,
    ("awd_lstm", "fastai"): fastai_awd_lstm,
    ("awd_lstm", "plain PyTorch"): plain_awd_lstm,
    ("seq2seq", "plain PyTorch"): plain_seq2seq,
    ("rnnsearch", "plain PyTorch"): plain_rnnsearch,
}
KINDS = ["grouped", "shuffled", "even"]
SYSTEMS = list(dict.fromkeys(system for system, _ in MAKERS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of each contender")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of batches")
    parser.add_argument("--keep", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args()
    lines = ["| system | batches | precision | | ms a step | regard is |", "| - | - | - | - | -: | -: |"]
    for system, kind, precision in product(options.systems, options.kinds, options.precision):
        if kind == "even" and system in PAIRED:
            continue
        peers = [peer for one, peer in MAKERS if one == system]
        made = [Contender(peer, make, system, peer, precision, kind, options.threads) for peer in peers]
        seconds = interleaved(made, options.rounds)
        best = max(peers[1:], key=lambda peer: -float(np.median(seconds[peer])))
        for peer in peers:
            times = "" if peer == "regard" else f"{ratio(seconds['regard'], seconds[peer]):.2f} x"
            times = f"**{times}**" if peer == best else times
            middle = 1000 * float(np.median(seconds[peer]))
            lines.append(f"| {system} | {kind} | {precision} | {peer} | {middle:.0f} | {times} |")
        for one in made:
            one.end()
    print("\n" + "\n".join(lines))
    if options.keep:
        command = " ".join(["python benchmarks/train_systems.py", *sys.argv[1:]])
        lines = [f"Each contender with {options.threads} thread(s).", "", *lines]
        keep("train-systems", "Training steps of the systems", command, lines)


if __name__ == "__main__":
    main()
