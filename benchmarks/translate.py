"""Translation: this package's engine beside CTranslate2 and Hugging Face, the same weights, in one run.

A Transformer of base shape (6 + 6 layers of width 512, 37,000 words) with random weights, 25 tokens in and 25 out:
every answer is cut off there, so that all do the same work. CTranslate2 gets its best arrangement: all threads on one
text, or a worker of one thread for each core on a batch (`--arrangements` shows both).

    python benchmarks/translate.py --markdown
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from side_by_side import THREADS, Contender, bandwidth, interleaved, keep, ratio

WORDS, LENGTH = 37_000, 25
BATCHES, BEAMS = (1, 16, 64), (1, 4)


def sentences(count: int) -> list[list[int]]:
    import random

    draw = random.Random(count)
    return [[draw.randrange(10, WORDS - 10) for _ in range(LENGTH - 1)] + [0] for _ in range(count)]


def write_model(folder: Path) -> None:
    """The weights, as Hugging Face and CTranslate2 want them."""
    import torch
    from ctranslate2.converters.transformers import MarianMTLoader
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=WORDS, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, activation_function="relu",
        scale_embedding=True, max_position_embeddings=128, pad_token_id=WORDS - 1, decoder_start_token_id=WORDS - 1,
        bos_token_id=0, eos_token_id=0, forced_eos_token_id=None, share_encoder_decoder_embeddings=True,
    )  # fmt: skip
    model = MarianMTModel(config).eval()
    model.save_pretrained(folder)
    spec = MarianMTLoader().get_model_spec(model)
    vocabulary = ["</s>", *(f"w{number}" for number in range(1, WORDS - 1))]  # it has no padding
    spec.register_source_vocabulary(vocabulary)
    spec.register_target_vocabulary(vocabulary)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "</s>", "</s>", "w1"
    spec.config.decoder_start_token = "</s>"  # of which it takes no embedding: that of the padding is zero
    spec.validate()
    spec.optimize(quantization=None)
    (folder / "ctranslate2").mkdir()
    spec.save(str(folder / "ctranslate2"))


def regard(folder: Path, precision: str) -> Callable:
    import json

    from regard.generation.answers import searched
    from regard.generation.engine import prepare
    from regard.generation.search import Search
    from regard.hub import bart
    from regard.hub.huggingface import read_tensors
    from regard.models.transformer import Transformer

    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Transformer(bart.read_config({**fields, "architectures": ["MarianMTModel"]}))
    model.load_state_dict(bart.read_weights(model.config, read_tensors(folder)))
    engine = prepare(model.eval(), precision)
    del model

    def run(count: int, beams: int) -> list[list[int]]:
        how = Search(WORDS - 1, -1, beams, 0.0, extra_length=0, forbidden=(0, WORDS - 1))
        found = dict(searched(engine, sentences(count), how))
        return [list(found[number][0].tokens) for number in range(count)]

    return run


def ctranslate2(folder: Path, precision: str, workers: int) -> Callable:
    import ctranslate2

    translator = ctranslate2.Translator(
        str(folder / "ctranslate2"), compute_type=precision, inter_threads=workers, intra_threads=THREADS // workers
    )

    def run(count: int, beams: int) -> list[list[int]]:
        texts = [["</s>" if token == 0 else f"w{token}" for token in one] for one in sentences(count)]
        found = translator.translate_batch(
            texts, beam_size=beams, max_decoding_length=LENGTH, min_decoding_length=LENGTH, length_penalty=0,
            max_batch_size=max(1, -(-count // workers)), suppress_sequences=[["</s>"]],
        )  # fmt: skip
        return [[int(token[1:]) for token in one.hypotheses[0]] for one in found]

    return run


def hugging_face(folder: Path) -> Callable:
    import torch
    from transformers import MarianMTModel

    torch.set_num_threads(THREADS)
    model = MarianMTModel.from_pretrained(folder).eval()

    def run(count: int, beams: int) -> list[list[int]]:
        found = model.generate(
            torch.tensor(sentences(count)), num_beams=beams, do_sample=False, max_new_tokens=LENGTH,
            min_new_tokens=LENGTH, length_penalty=0.0, bad_words_ids=[[WORDS - 1]],
        )  # fmt: skip
        return found[:, 1:].tolist()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--beams", type=int, nargs="+", default=BEAMS)
    parser.add_argument("--precisions", nargs="+", default=["int8"], help="of the package: int8, bfloat16, float32")
    parser.add_argument("--without", nargs="*", default=[], help="contenders to leave out, by the start of their names")
    parser.add_argument("--markdown", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args()
    rate = bandwidth()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        lines = compare(options, Path(folder), rate)
    print("\n" + "\n".join(lines))
    if options.markdown:
        keep("translate", "Translation", " ".join(["python benchmarks/translate.py", *sys.argv[1:]]), lines)


def compare(options: argparse.Namespace, folder: Path, rate: float) -> list[str]:
    wanted = [(f"regard {precision}", regard, (folder, precision)) for precision in options.precisions]
    wanted += [
        (f"CTranslate2 int8, {workers} x {THREADS // workers} threads", ctranslate2, (folder, "int8", workers))
        for workers in sorted({1, THREADS})
    ]
    wanted.append(("Hugging Face fp32", hugging_face, (folder,)))
    contenders = [Contender(name, make, *arguments) for name, make, arguments in wanted
                  if not name.startswith(tuple(options.without) or ("?",))]  # fmt: skip
    columns = [(count, beams) for count in options.batches for beams in options.beams]
    seconds = {column: interleaved(contenders, options.rounds, *column) for column in columns}
    names = [one.name for one in contenders]
    lines = [
        "| sentences a second | " + " | ".join(f"batch {count}, {_beams(beams)}" for count, beams in columns) + " |",
        "| - |" + " -: |" * len(columns),
    ]
    for name in names:
        rates = (column[0] / statistics.median(seconds[column][name]) for column in columns)
        lines.append(f"| {name} | " + " | ".join(f"{one:,.1f}" for one in rates) + " |")
    for name in options.precisions:
        ours = f"regard {name}"
        for peer in ("CTranslate2", "Hugging Face"):
            rows = []
            for column in columns:
                found = [ratio(seconds[column][ours], seconds[column][one]) for one in names if one.startswith(peer)]
                rows.append(f"**{min(found):.2f} x**" if found else "")
            lines.append(f"| {ours} beside the best {peer} | " + " | ".join(rows) + " |")
    decoder = 6 * (4 * 512**2 + 2 * 512**2 + 2 * 512 * 2048) + WORDS * 512
    encoder = 6 * (4 * 512**2 + 2 * 512 * 2048) + 6 * 2 * 512**2
    least = (LENGTH * decoder + encoder) / rate
    told = (
        f"The limit of batch 1: int8 weights are {decoder / 1e6:.0f} MB a step of the decoder; read from memory at the "
    )
    told += f"{rate / 1e9:.0f} GB/s measured here, {1 / least:.1f} sentences a second. (They may lie in the cache.)"
    lines += ["", told]
    agree = []
    for count, beams in columns[:2]:
        answers = [one.result(count, beams) for one in contenders]
        same = sum(a == b for a, b in zip(answers[0][0], answers[-1][0], strict=True))
        agree.append(f"{same} of {LENGTH} ({_beams(beams)})")
    told = "Tokens of the first answer that the first and the last row have in common, though weights are random: "
    lines.append(told + ", ".join(agree) + ".")
    for one in contenders:
        one.end()
    return lines


def _beams(beams: int) -> str:
    return "greedy" if beams == 1 else f"beam {beams}"


if __name__ == "__main__":
    main()
