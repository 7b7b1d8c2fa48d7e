"""Text from a language model, one at a time: this package's engine beside llama.cpp, CTranslate2 and Hugging Face.

A GPT-2 of the small shape (12 layers of width 768, 50,257 words) with random weights: a prompt of 16 tokens, 64 new
ones, the most probable each time. llama.cpp gets the same weights as a GGUF file (Q8_0: blocks of 32 weights with a
scale each, 8.5 bits a weight; ours have a scale an output, 8 bits).

    python benchmarks/generate.py --markdown
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from side_by_side import THREADS, Contender, bandwidth, interleaved, keep, ratio

LAYERS, WIDTH, HEADS, WORDS, POSITIONS = 12, 768, 12, 50257, 256
PROMPT, NEW = list(range(1000, 1016)), 64


def write_models(folder: Path) -> None:
    """The same weights for everyone."""
    import torch
    from ctranslate2.converters.transformers import GPT2Loader
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=LAYERS, n_embd=WIDTH, n_head=HEADS, vocab_size=WORDS, n_positions=POSITIONS)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder / "huggingface")
    spec = GPT2Loader().get_model_spec(model)
    spec.register_vocabulary([f"w{number}" for number in range(WORDS - 1)] + ["<|endoftext|>"])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "<|endoftext|>"
    spec.validate()
    spec.optimize(quantization=None)
    (folder / "ctranslate2").mkdir()
    spec.save(str(folder / "ctranslate2"))
    write_gguf(folder / "q8_0.gguf", model)


def write_gguf(path: Path, model) -> None:
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(4 * WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")  # it reads no text here, but does not run without words
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"w{number}" for number in range(WORDS)])
    writer.add_token_types([gguf.TokenType.NORMAL] * WORDS)
    writer.add_token_merges(["w 0"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    kind = gguf.GGMLQuantizationType.Q8_0

    def put(name: str, value, matrix: bool = False) -> None:
        found = numpy.ascontiguousarray(value.detach().float().numpy())
        if matrix:
            writer.add_tensor(name, gguf.quantize(found, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, found)

    body = model.transformer
    put("token_embd.weight", body.wte.weight, matrix=True)
    put("position_embd.weight", body.wpe.weight)
    put("output_norm.weight", body.ln_f.weight)
    put("output_norm.bias", body.ln_f.bias)
    for number, block in enumerate(body.h):
        parts = {
            "attn_norm": block.ln_1, "attn_qkv": block.attn.c_attn, "attn_output": block.attn.c_proj,
            "ffn_norm": block.ln_2, "ffn_up": block.mlp.c_fc, "ffn_down": block.mlp.c_proj,
        }  # fmt: skip
        for name, part in parts.items():
            weight = part.weight.T if part.weight.dim() == 2 else part.weight  # GPT-2 keeps its matrices transposed
            put(f"blk.{number}.{name}.weight", weight, matrix=weight.dim() == 2)
            put(f"blk.{number}.{name}.bias", part.bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def regard(folder: Path, precision: str) -> Callable:
    import json

    from regard import Sequences
    from regard.generation.engine import prepare
    from regard.generation.search import Search, search
    from regard.hub import gpt
    from regard.hub.huggingface import read_tensors
    from regard.models.gpt import GPT

    fields = json.loads((folder / "huggingface" / "config.json").read_text(encoding="utf-8"))
    model = GPT(gpt.read_config(fields))
    model.load_state_dict(gpt.read_weights(model.config, read_tensors(folder / "huggingface")))
    engine = prepare(model.eval(), precision)
    how, source = Search(None, -1, extra_length=NEW), Sequences.of_ids([PROMPT])
    return lambda: list(search(engine, source, how)[0][0].tokens)


def ctranslate2(folder: Path, precision: str) -> Callable:
    import ctranslate2

    generator = ctranslate2.Generator(str(folder / "ctranslate2"), compute_type=precision, intra_threads=THREADS)
    prompt = [f"w{token}" for token in PROMPT]

    def run() -> list[int]:
        found = generator.generate_batch([prompt], max_length=NEW, min_length=NEW, include_prompt_in_result=False)
        return list(found[0].sequences_ids[0])

    return run


def llama_cpp(folder: Path) -> Callable:
    import llama_cpp as library
    import numpy

    silent = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(silent, None)
    loading = library.llama_model_default_params()
    loading.use_extra_bufts = False
    model = library.llama_model_load_from_file(str(folder / "q8_0.gguf").encode(), loading)
    options = library.llama_context_default_params()
    options.n_ctx, options.n_threads, options.n_threads_batch = POSITIONS, THREADS, THREADS
    context = library.llama_init_from_model(model, options)

    def read(tokens: list[int]) -> int:
        ids = (library.llama_token * len(tokens))(*tokens)
        assert library.llama_decode(context, library.llama_batch_get_one(ids, len(tokens))) == 0
        return int(numpy.ctypeslib.as_array(library.llama_get_logits_ith(context, -1), shape=(WORDS,)).argmax())

    def run() -> list[int]:
        library.llama_memory_clear(library.llama_get_memory(context), True)
        found = [read(PROMPT)]
        while len(found) < NEW:
            found.append(read(found[-1:]))
        return found

    run.kept = silent  # type: ignore[attr-defined]
    return run


def hugging_face(folder: Path) -> Callable:
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(THREADS)
    model = GPT2LMHeadModel.from_pretrained(folder / "huggingface").eval()
    prompt = torch.tensor([PROMPT])

    def run() -> list[int]:
        found = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW,
            pad_token_id=0,
        )  # fmt: skip
        return found[0, len(PROMPT) :].tolist()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--markdown", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args()
    rate = bandwidth()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        wanted = [
            ("regard int8", regard, (folder, "int8")),
            ("regard bf16", regard, (folder, "bf16")),
            ("llama.cpp Q8_0", llama_cpp, (folder,)),
            ("CTranslate2 int8", ctranslate2, (folder, "int8")),
            ("Hugging Face fp32", hugging_face, (folder,)),
        ]
        contenders = [Contender(one, make, *arguments) for one, make, arguments in wanted]
        seconds = interleaved(contenders, options.rounds)
        answers = {one.name: one.result() for one in contenders}
    lines = ["| | tokens a second | regard int8 is | first tokens as in fp32 |", "| - | -: | -: | -: |"]
    for name, found in seconds.items():
        told = "" if name == "regard int8" else f"{ratio(seconds['regard int8'], found):.2f} x"
        expected = answers["Hugging Face fp32"]
        same = next(
            (at for at, pair in enumerate(zip(answers[name], expected, strict=True)) if pair[0] != pair[1]), NEW
        )
        lines.append(f"| {name} | {NEW / statistics.median(found):,.0f} | {told} | {same} |")
    weights = LAYERS * 12 * WIDTH**2 + WORDS * WIDTH
    limit = f"The limit: {weights / 1e6:.0f} MB of int8 weights a token, read from memory at the {rate / 1e9:.0f} GB/s "
    lines += ["", limit + f"measured here: {rate / weights:.0f} tokens a second. (They may lie in the cache.)"]
    print("\n" + "\n".join(lines))
    if options.markdown:
        keep(
            "generate", "Text from a language model", " ".join(["python benchmarks/generate.py", *sys.argv[1:]]), lines
        )
    for one in contenders:
        one.end()


if __name__ == "__main__":
    main()
