"""Training speed: tokens a second of one whole training step, this package beside its peers, in one run.

A step is forward, cross-entropy with label smoothing 0.1, backward and Adam, with dropout 0.1 on the embeddings and on
the output of every sublayer (a peer's further dropouts are switched off). Everyone gets the same sentence pairs, the
same sizes, a vocabulary of 8,000 words shared by source, target and the output, and the same Adam (fused). Tokens are
real ones, source and target; padding is not counted.

Lengths are drawn once, with a fixed seed: log-normal with a mean of 22 tokens, from 3 to 100, the target's about the
source's. There are two kinds of batches, the same for all:
    grouped   neighbours in length, as this package's data loader makes them: little padding for anyone. The headline.
    shuffled  random pairs, as a plain data loader makes them. Peers compute on padding, this package does not.

Every contender lives in a process of its own and waits while another works; the driver asks each in turn for one step
over the same batch. The figures are medians over the rounds. A ratio is the median, over the rounds, of the fastest
peer's time over this package's for that same batch; the fastest peer is the one of the same precision, then, for
"bf16 / fp32", ours in bf16 beside the fastest in fp32.

    python benchmarks/train_step.py --markdown            # the table in RESULTS.md
    python benchmarks/train_step.py --attention           # plain or fused attention, by size
    python benchmarks/train_step.py --memory              # with and without `keep_freed_memory`
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

VOCABULARY, DROPOUT, SMOOTHING, PAD, BOS = 8000, 0.1, 0.1, 0, 1
PAIRS = 20_000
RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True)
class Setting:
    """Sizes of a model."""

    layers: int
    width: int
    heads: int
    ffn: int

    def __str__(self) -> str:
        return f"{self.layers}+{self.layers} layers, width {self.width}, {self.heads} heads, ffn {self.ffn}"


SETTINGS = {"base": Setting(6, 512, 8, 2048), "small": Setting(3, 256, 8, 1024)}


# --- the data: the same for everyone ----------------------------------------------------------------------------------


@cache
def examples():
    """Pairs of random words with lengths as in a real corpus."""
    from regard.data.batches import Examples

    random = np.random.default_rng(1)
    sources = np.clip(random.lognormal(math.log(22) - 0.18, 0.6, PAIRS).round(), 3, 100).astype(int)
    targets = np.clip((sources * random.lognormal(0.0, 0.2, PAIRS)).round(), 3, 100).astype(int)
    draw = lambda lengths: [random.integers(3, VOCABULARY, length).tolist() for length in lengths]  # noqa: E731
    return Examples(draw(sources), draw(targets), BOS)


@cache
def plan(kind: str, batch_tokens: int) -> list[np.ndarray]:
    """Which pairs make which batch."""
    if kind == "grouped":
        return examples().plan(batch_tokens, seed=1, epoch=0)
    sizes = examples().source.lengths + examples().target.lengths
    return np.split(np.arange(PAIRS), np.flatnonzero(np.diff(np.cumsum(sizes) // batch_tokens)) + 1)


# --- the contenders ---------------------------------------------------------------------------------------------------


def ours(setting: Setting):
    """This package: ragged batches, and the step of its training loop."""
    from regard.models.transformer import Transformer, TransformerConfig
    from regard.training.objectives import smoothed_cross_entropy

    sizes = {"d_model": setting.width, "attention_heads": setting.heads, "ffn_dim": setting.ffn, "dropout": DROPOUT}
    depth = {"encoder_layers": setting.layers, "decoder_layers": setting.layers}
    model = Transformer(TransformerConfig(vocab_size=VOCABULARY, **sizes, **depth))

    def loss(batch, autocast):
        with autocast:
            logits = model(batch.source, batch.target)
        return smoothed_cross_entropy(logits, batch.answers, SMOOTHING)[0]

    return model, loss


def padded_loss(logits_of: Callable) -> Callable:
    """The loss of a peer: logits of a padded batch, padding left out of the mean."""
    import torch.nn.functional as F

    def loss(batch, autocast):
        source, target, answers = batch
        with autocast:
            logits = logits_of(source, target, source == PAD, target == PAD)
            return F.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING)

    return loss


def pytorch(setting: Setting):
    """torch.nn.Transformer with an embedding, sinusoids and a tied projection around it."""
    import torch.nn.functional as F
    from torch import nn

    from regard.layers.positions import sinusoids

    model = nn.Transformer(
        setting.width, setting.heads, setting.layers, setting.layers, setting.ffn, DROPOUT, batch_first=True
    )
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        layer.dropout.p = layer.self_attn.dropout = 0.0
    for layer in model.decoder.layers:
        layer.multihead_attn.dropout = 0.0
    model.embedding, model.embedding_dropout = nn.Embedding(VOCABULARY, setting.width), nn.Dropout(DROPOUT)
    nn.init.normal_(model.embedding.weight, std=setting.width**-0.5)
    table = sinusoids(512, setting.width)

    def embed(ids):
        return model.embedding_dropout(model.embedding(ids) * setting.width**0.5 + table[: ids.shape[1]])

    def logits_of(source, target, no_source, no_target):
        future = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=bool)
        hidden = model(
            embed(source),
            embed(target),
            tgt_mask=future,
            src_key_padding_mask=no_source,
            tgt_key_padding_mask=no_target,
            memory_key_padding_mask=no_source,
            tgt_is_causal=True,
        )
        return F.linear(hidden, model.embedding.weight)

    return model, padded_loss(logits_of)


def marian(setting: Setting, attention: str):
    """MarianMTModel of Hugging Face transformers, with one of its two kinds of attention."""
    from transformers import MarianConfig, MarianMTModel

    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in [("layers", setting.layers), ("attention_heads", setting.heads), ("ffn_dim", setting.ffn)]
    }
    config = MarianConfig(
        vocab_size=VOCABULARY,
        d_model=setting.width,
        dropout=DROPOUT,
        attention_dropout=0.0,
        activation_dropout=0.0,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=512,
        pad_token_id=PAD,
        decoder_start_token_id=BOS,
        attn_implementation=attention,
        **sizes,
    )
    model = MarianMTModel(config)

    def logits_of(source, target, no_source, no_target):
        masks = {"attention_mask": ~no_source, "decoder_attention_mask": ~no_target}
        return model(input_ids=source, decoder_input_ids=target, use_cache=False, **masks).logits

    return model, padded_loss(logits_of)


def x_transformers(setting: Setting):
    """x-transformers: an encoder and a decoder with cross-attention, fused attention, norm after the sum."""
    from torch import nn
    from x_transformers import Decoder, Encoder, TransformerWrapper

    sizes = {
        "dim": setting.width,
        "depth": setting.layers,
        "heads": setting.heads,
        "attn_dim_head": setting.width // setting.heads,
        "ff_mult": setting.ffn / setting.width,
        "attn_flash": True,
        "attn_sublayer_dropout": DROPOUT,
        "ff_sublayer_dropout": DROPOUT,
        "ff_custom_activation": nn.ReLU(),
        "pre_norm": False,
    }
    outside = {"num_tokens": VOCABULARY, "max_seq_len": 512, "emb_dropout": DROPOUT}
    encoder = TransformerWrapper(attn_layers=Encoder(**sizes), return_only_embed=True, **outside)
    decoder = TransformerWrapper(attn_layers=Decoder(cross_attend=True, **sizes), tie_embedding=True, **outside)
    decoder.token_emb = encoder.token_emb
    model = nn.ModuleList([encoder, decoder])

    def logits_of(source, target, no_source, no_target):
        memory = encoder(source, mask=~no_source, return_embeddings=True)
        return decoder(target, context=memory, context_mask=~no_source)  # padding lies behind: causality hides it

    return model, padded_loss(logits_of)


CONTENDERS: dict[str, Callable] = {
    "regard": ours,
    "torch.nn.Transformer": pytorch,
    "MarianMTModel, sdpa": lambda setting: marian(setting, "sdpa"),
    "MarianMTModel, eager": lambda setting: marian(setting, "eager"),
    "x-transformers": x_transformers,
}
OURS = "regard"


# --- one process for each ---------------------------------------------------------------------------------------------


def work(pipe: Connection, name: str, keep: bool, options: argparse.Namespace) -> None:
    """A contender's process: make the model of ("model", setting); tell the seconds of ("step", ...)."""
    import torch

    from regard.training.memory import keep_freed_memory

    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(options.threads)
    if keep:
        keep_freed_memory()
    model = loss = optimizer = None
    for order, *arguments in iter(pipe.recv, None):
        if order == "model":
            torch.manual_seed(1)
            model = loss = optimizer = None
            model, loss = CONTENDERS[name](*arguments)
            model.train()
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
            pipe.send(None)
            continue
        precision, kind, number = arguments
        batch = examples().batch(plan(kind, options.batch_tokens)[number])
        if name != OURS:
            answers = batch.target.with_values(batch.answers)
            batch = batch.source.pad(PAD), batch.target.pad(PAD), answers.pad(PAD)
        begun = clock()
        loss(batch, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pipe.send(clock() - begun)


def start(name: str, keep: bool, options: argparse.Namespace) -> Connection:
    """A contender's process, and the pipe to it; it ends when it is sent None."""
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    context.Process(target=work, args=(far, name, keep, options), daemon=True).start()
    return pipe


# --- what is measured -------------------------------------------------------------------------------------------------


def flops(setting: Setting, chosen: np.ndarray) -> float:
    """Arithmetic of a step on real tokens: products forward, and twice as much backward."""
    source, target = (side.lengths[chosen].astype(float) for side in (examples().source, examples().target))
    width, layers = setting.width, setting.layers
    sublayer, ffn = 4 * width**2, 2 * width * setting.ffn
    encoder = layers * (sublayer + ffn) * source.sum()
    # The memory's keys and values belong to the source's tokens.
    decoder = (layers * (1.5 * sublayer + ffn) + width * VOCABULARY) * target.sum()
    decoder += layers * sublayer / 2 * source.sum()
    attention = layers * 2 * width * (source**2 + target**2 + source * target).sum()
    return 6 * float(encoder + decoder + attention)


def race(
    names: Iterable[tuple[str, bool]], setting: Setting, precisions: list[str], kinds: list[str], options
) -> dict[tuple[str, bool, str, str], list[tuple[float, float, float]]]:
    """Seconds, tokens and arithmetic of every step, by contender, precision and kind; the first round is not kept."""
    pipes = {name: start(*name, options) for name in names}
    for pipe in pipes.values():
        pipe.send(("model", setting))
    for pipe in pipes.values():
        pipe.recv()
    found: dict = {}
    for number in range(options.rounds + 1):
        for precision in precisions:
            for kind in kinds:
                chosen = plan(kind, options.batch_tokens)[number]
                size = float(examples().source.lengths[chosen].sum() + examples().target.lengths[chosen].sum())
                for name, pipe in pipes.items():
                    pipe.send(("step", precision, kind, number))
                    seconds = pipe.recv()
                    if number:
                        row = (seconds, size, flops(setting, chosen))
                        found.setdefault((*name, precision, kind), []).append(row)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for pipe in pipes.values():
        pipe.send(None)
    return found


def speed(rows: list[tuple[float, float, float]]) -> float:
    return statistics.median(tokens / seconds for seconds, tokens, _ in rows)


def ratio(rows: list, reference: list) -> float:
    """How many times as fast as the reference, batch by batch."""
    return statistics.median(theirs[0] / mine[0] for mine, theirs in zip(rows, reference, strict=True))


def compare(options) -> list[str]:
    """The main table: a line for each contender, precision and kind of batch."""
    lines = []
    names = [(name, name == OURS) for name in options.contenders]
    for key in options.settings:
        setting, kinds = SETTINGS[key], options.kinds
        found = race(names, setting, options.precision, kinds, options)
        lines += ["", f"### {setting}, batches of {options.batch_tokens:,} tokens", ""]
        lines += ["| batches | precision | | tokens/s | GFLOP/s | regard is |", "| - | - | - | -: | -: | -: |"]
        for kind in kinds:
            for precision in options.precision:
                mine = found[OURS, True, precision, kind]
                for name in names:
                    rows = found[*name, precision, kind]
                    rate = statistics.median(work / seconds for seconds, _, work in rows) / 1e9
                    times = "" if name[0] == OURS else f"{ratio(mine, rows):.2f} x"
                    lines.append(f"| {kind} | {precision} | {name[0]} | {speed(rows):,.0f} | {rate:.0f} | {times} |")
            for mine, theirs in [("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32")]:
                if {mine, theirs} <= set(options.precision) and len(names) > 1:
                    peers = [found[*name, theirs, kind] for name in names if name[0] != OURS]
                    best = ratio(found[OURS, True, mine, kind], max(peers, key=speed))
                    lines.append(f"| {kind} | {mine} / {theirs} | **beside the fastest peer** | | | **{best:.2f} x** |")
    return lines


def compare_memory(options) -> list[str]:
    """Every contender with and without `keep_freed_memory`."""
    lines = []
    names = [(name, keep) for name in options.contenders for keep in (False, True)]
    for key in options.settings:
        found = race(names, SETTINGS[key], options.precision, options.kinds, options)
        lines += ["", f"### {SETTINGS[key]}: `keep_freed_memory`", ""]
        lines += ["| batches | precision | | without, tokens/s | with | gain |", "| - | - | - | -: | -: | -: |"]
        for name, keep, precision, kind in found:
            if keep:
                kept, plain = found[name, True, precision, kind], found[name, False, precision, kind]
                figures = f"{speed(plain):,.0f} | {speed(kept):,.0f} | {ratio(kept, plain):.2f} x"
                lines.append(f"| {kind} | {precision} | {name} | {figures} |")
    return lines


def compare_attention(options) -> list[str]:
    """Forward and backward of one masked attention call, 8 heads of width 64, plain and fused."""
    import torch

    from regard import attention
    from regard.sequences import Layout
    from regard.training.memory import keep_freed_memory

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    lines = ["", "### Attention, forward and backward, 8 heads of width 64, fp32", ""]
    lines += ["| rows x positions | entries | plain, ms | fused, ms | plain is |", "| - | -: | -: | -: | -: |"]
    sizes = [(256, 8), (128, 16), (64, 32), (32, 64), (16, 128), (64, 128), (8, 256), (32, 256), (4, 512), (8, 512)]
    for rows, positions in [*sizes, (16, 512), (2, 1024), (4, 1024), (1, 2048), (1, 4096)]:
        layout = Layout((positions,) * rows, torch.device("cpu"))
        mask = attention.make_mask(layout, layout, causal=True)
        inputs = [torch.randn(rows, 8, positions, 64, requires_grad=True) for _ in range(3)]
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for number in range(options.rounds + 1):
            for plainly, times in seconds.items():
                attention._plain_is_faster = lambda *_, chosen=plainly: chosen
                begun = time.perf_counter()
                for _ in range(3):
                    attention.scaled_dot_product(*inputs, mask).sum().backward()
                if number:
                    times.append((time.perf_counter() - begun) / 3)
        plain, fused = (statistics.median(times) * 1000 for times in seconds.values())
        entries = f"2^{math.log2(rows * 8 * positions**2):.0f}"
        lines.append(f"| {rows} x {positions} | {entries} | {plain:.1f} | {fused:.1f} | {fused / plain:.2f} x |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--kinds", nargs="+", choices=["grouped", "shuffled"], default=["grouped", "shuffled"])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=4096, help="source and target tokens of a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds, for a busy machine (--threads 1)")
    parser.add_argument("--attention", action="store_true", help="plain or fused attention, by size")
    parser.add_argument("--memory", action="store_true", help="with and without keep_freed_memory")
    parser.add_argument("--markdown", action="store_true", help=f"write the table into {RESULTS.name}")
    options = parser.parse_args()
    options.contenders = [OURS, *(name for name in options.contenders if name != OURS)]
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes to come
    measure = compare_attention if options.attention else compare_memory if options.memory else compare
    lines = measure(options)
    print("\n".join(lines))
    if options.markdown:
        write_section(options.threads, sys.argv[1:], lines)


def write_section(threads: int, arguments: list[str], lines: list[str]) -> None:
    """Replace the section of this command in RESULTS.md, or add it at the end."""
    import torch

    command = " ".join(["python benchmarks/train_step.py", *arguments])
    where = f"{platform.system()} {platform.machine()}, {threads} threads, torch {torch.__version__}"
    section = "\n".join([f"## `{command}`", "", where, *lines]) + "\n"
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Measured\n"
    before, found, after = text.partition(f"## `{command}`\n")
    following = after.find("\n## ")
    rest = after[following:] if found and following >= 0 else ""
    RESULTS.write_text(f"{before.rstrip()}\n\n{section}{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
