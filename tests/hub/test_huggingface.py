"""Folders of transformers: read, refused where they should be, and written so that they load with the same logits."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

import regard
from regard import RegardError
from regard.cli import app
from regard.hub.huggingface import read_folder, write_folder
from regard.hub.tokenizers import read_tokenizer
from regard.modalities.subwords import train_subwords
from regard.sequences import Sequences

TEXTS = ["the cat sat on the mat", "a dog's bed, is it there?"] * 4
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    "the",
    "cat",
    "##s",
    "mat",
    "on",
]


@pytest.fixture
def bert(tmp_path):
    """A folder as transformers writes it, and its model."""
    torch.manual_seed(2)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=32,
    )  # fmt: skip
    model = BertForMaskedLM(config).eval()
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert", model, tokenizer


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def test_a_folder_reads_with_its_tokenizer(bert):
    folder, theirs, tokenizer = bert
    loaded = regard.load(str(folder))
    for text in ("the cats", "Mat on the cat"):
        ids = tokenizer(text)["input_ids"]
        assert loaded.check(text) == ids
        ours = loaded.model(Sequences.of_ids([ids]))["masked_words"]
        torch.testing.assert_close(ours, logits_of(theirs, ids), atol=1e-5, rtol=0)
    assert len(loaded.fill("the [MASK]")[0]) == 5


def test_weights_may_lie_in_several_files(bert):
    folder, theirs, _ = bert
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, chosen in parts.items():
        save_file({name: weights[name] for name in chosen}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, chosen in parts.items() for name in chosen}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model, _ = read_folder(folder)
    torch.testing.assert_close(model(Sequences.of_ids([[2, 7, 3]]))["masked_words"], logits_of(theirs, [2, 7, 3]))
    (folder / "b.safetensors").unlink()
    with pytest.raises(RegardError, match=r"lacks b\.safetensors"):
        read_folder(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../a.safetensors"}}')
    with pytest.raises(RegardError, match="not a model folder|outside its folder"):
        read_folder(folder)


def test_a_pickle_is_refused_with_what_to_do(bert):
    folder, _, _ = bert
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RegardError, match=r"pickle \(pytorch_model\.bin\), which can run any code.*save_pretrained"):
        regard.load(str(folder))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda weights: weights.pop("bert.encoder.layer.0.attention.self.query.weight"), "missing|lacks"),
        (lambda weights: weights.update({"bert.extra.weight": torch.ones(2)}), r"unexpected .*extra"),
        (
            lambda weights: weights.update({"bert.embeddings.word_embeddings.weight": torch.ones(3, 12)}),
            "3x12, the configuration asks for 36x12",
        ),
        (
            lambda weights: weights["bert.encoder.layer.1.output.dense.bias"].fill_(float("nan")),
            "holds values that are not numbers",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(bert, change, match):
    folder, _, _ = bert
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(RegardError, match=match):
        regard.load(str(folder))


def test_an_unknown_architecture_is_told_with_those_that_are_known(bert):
    folder, _, _ = bert
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(RegardError, match=r"no model family 'mamba'.*gpt2"):
        regard.load(str(folder))


def test_a_tokenizer_that_does_not_match_is_refused(bert):
    folder, _, _ = bert
    train_subwords("wordpiece", TEXTS, 400).save(folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    if len(state["model"]["vocab"]) <= len(VOCABULARY):
        state["model"]["vocab"]["more"] = len(VOCABULARY) + 1
        (folder / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(RegardError, match=r"the tokenizer has \d+ tokens, the model's vocabulary 36"):
        regard.load(str(folder))


def test_a_hub_name_that_is_not_there_is_one_line():
    with pytest.raises(RegardError, match="there is no folder nobody/nothing-at-all, and the hub does not give"):
        regard.load("nobody/nothing-at-all")


def test_vocab_txt_alone_will_do(bert):
    folder, _, tokenizer = bert
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer.json").unlink()
    ours = read_tokenizer(folder, {"model_type": "bert"})
    for text in ("The cats on a mat!", "zebra"):
        assert ours.encode(text) == tokenizer(text)["input_ids"]
    (folder / "vocab.txt").unlink()
    with pytest.raises(RegardError, match=r"needs tokenizer\.json, vocab\.txt"):
        read_tokenizer(folder, {"model_type": "bert"})


def test_what_is_written_transformers_reads(tmp_path):
    """Our own GPT, exported: the same logits, the same tokens."""
    torch.manual_seed(4)
    tokenizer = train_subwords("bytes", TEXTS, 300)
    config = GPT2Config(vocab_size=tokenizer.vocab_size, n_positions=32, n_embd=12, n_layer=2, n_head=3)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    ours = regard.load(str(tmp_path / "theirs"))
    write_folder(ours.model, ours.tokenizer, tmp_path / "exported")
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "exported").eval()
    ids = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "exported" / "tokenizer.json"))(
        "the cat's mat"
    )["input_ids"]
    assert ids == tokenizer.encode("the cat's mat")
    torch.testing.assert_close(ours.model(Sequences.of_ids([ids])), logits_of(again, ids), atol=1e-5, rtol=0)


def test_the_export_command_writes_what_transformers_loads(bert, tmp_path):
    folder, theirs, _ = bert
    out = tmp_path / "out"
    told = CliRunner().invoke(app, ["export", str(folder), str(out), "--to", "hf"], catch_exceptions=False)
    assert told.stdout == f"wrote {out}\n"
    again = BertForMaskedLM.from_pretrained(out).eval()
    torch.testing.assert_close(logits_of(again, [2, 7, 3]), logits_of(theirs, [2, 7, 3]), atol=1e-5, rtol=0)
    for arguments, match in (
        ([str(folder), str(out)], "is there already"),
        ([str(folder), str(tmp_path / "new"), "--to", "onnx"], r"no format 'onnx'"),
    ):
        with pytest.raises(RegardError, match=match):
            CliRunner().invoke(app, ["export", *arguments], catch_exceptions=False)
        assert not (tmp_path / "new").exists()
