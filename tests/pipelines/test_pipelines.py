"""Every system loads from its folder, answers, and explains itself, from Python and from the command line."""

import json

import pytest
import torch
from typer.testing import CliRunner

import regard
from regard import RegardError
from regard.cli import app
from regard.modalities.subwords import train_subwords
from regard.modalities.text import train_bpe
from regard.models.albert import Albert, AlbertConfig
from regard.models.bert import Bert, BertConfig
from regard.models.gpt import GPT, GPTConfig
from regard.models.llama import Llama, LlamaConfig
from regard.models.rnnsearch import RNNSearch, RNNSearchConfig
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig
from regard.models.t5 import T5, T5Config
from regard.models.ulmfit import AwdLstm, AwdLstmConfig, Ulmfit, UlmfitConfig

TEXTS = ["Python executes quickly", "Python crawls quickly", "the cat sat on the mat"] * 3
BERT = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 32,
}  # fmt: skip
AWD = {"embedding_size": 10, "hidden_size": 14, "num_hidden_layers": 2}
TRANSLATORS = {
    "seq2seq": lambda size: Seq2Seq(
        Seq2SeqConfig(vocab_size=size, embedding_size=6, hidden_size=10, num_hidden_layers=2)
    ),
    "t5": lambda size: T5(
        T5Config(
            vocab_size=size,
            d_model=12,
            d_kv=4,
            d_ff=20,
            encoder_layers=2,
            decoder_layers=2,
            num_heads=3,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ),
    "rnnsearch": lambda size: RNNSearch(
        RNNSearchConfig(vocab_size=size, embedding_size=6, hidden_size=10, attention_size=7, maxout_size=5)
    ),
}
OTHERS = {
    "gpt": ("bytes", lambda size: GPT(GPTConfig(vocab_size=size, n_positions=32, n_embd=12, n_layer=2, n_head=3))),
    "llama": (
        "bytes",
        lambda size: Llama(
            LlamaConfig(
                vocab_size=size,
                hidden_size=12,
                intermediate_size=20,
                num_hidden_layers=2,
                num_attention_heads=6,
                num_key_value_heads=2,
                max_position_embeddings=32,
            )
        ),
    ),
    "awd_lstm": ("words", lambda size: AwdLstm(AwdLstmConfig(vocab_size=size, **AWD))),
    "ulmfit": ("words", lambda size: Ulmfit(UlmfitConfig(vocab_size=size, labels=("good", "bad"), **AWD))),
    "bert": ("wordpiece", lambda size: Bert(BertConfig(vocab_size=size, **BERT))),
    "classifier": (
        "wordpiece",
        lambda size: Bert(BertConfig(vocab_size=size, heads=("classification",), labels=("good", "bad"), **BERT)),
    ),
    "embedder": ("wordpiece", lambda size: Bert(BertConfig(vocab_size=size, heads=(), **BERT))),
    "albert": ("wordpiece", lambda size: Albert(AlbertConfig(vocab_size=size, embedding_size=8, **BERT))),
}
RECURRENT = ("seq2seq", "rnnsearch", "awd_lstm", "ulmfit")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder a system, random weights."""
    torch.manual_seed(1)
    place, found = tmp_path_factory.mktemp("models"), {}
    codec = train_bpe(TEXTS, 320)
    for name, make in TRANSLATORS.items():
        found[name] = place / name
        found[name].mkdir()
        make(codec.target.vocab_size).save(found[name])
        codec.save(found[name])
    for name, (kind, make) in OTHERS.items():
        found[name] = place / name
        found[name].mkdir()
        tokenizer = train_subwords(kind, TEXTS, 320)
        make(tokenizer.vocab_size).save(found[name])
        tokenizer.save(found[name])
    return {name: str(folder) for name, folder in found.items()}


def command(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).stdout


@pytest.mark.parametrize("name", [*TRANSLATORS, *OTHERS])
def test_every_system_answers_one_line_a_text(folders, name):
    masked = ["Python [MASK] quickly", "the [MASK] sat on the [MASK]"]
    texts = masked if name in ("bert", "albert") else TEXTS[:2]
    plain = command("run", folders[name], *texts).splitlines()
    assert len(plain) == 2
    rows = [json.loads(line) for line in command("run", folders[name], *texts, "--jsonl").splitlines()]
    assert [row["source"] for row in rows] == texts
    assert [" ".join(row["answer"].splitlines()) for row in rows] == plain


@pytest.mark.parametrize("name", [*TRANSLATORS, *OTHERS])
def test_every_system_explains_itself(folders, name):
    told = json.loads(command("explain", "--model", folders[name], *TEXTS[:2], "--json"))
    walk = told["walkthrough"]
    assert walk["difference_from_fast_run"] < 1e-5
    if name not in RECURRENT:  # those begin with the first token
        assert walk["query"].casefold() == (
            "quickly" if name in ("gpt", "llama") else "python"
        )  # a decoder sees no later words
    assert (told["context"] is None) == (name in RECURRENT)
    shown = command("explain", "--model", folders[name], *TEXTS[:2])
    assert "largest difference" in shown
    assert ("forget gate" in shown) == (name in ("seq2seq", "awd_lstm", "ulmfit"))


def test_every_system_has_its_page(folders, tmp_path):
    for name, told in (
        *((one, "P[") for one in ("gpt", "bert", "classifier")),  # learned positions, not sines
        ("llama", "silu(RMSNorm(x) W<sub>g</sub>)"),
        ("t5", "s = q·k + r"),
    ):
        assert told in regard.load(folders[name]).explain(*TEXTS[:2]).walkthrough.to_html()
        command("explain", "--model", folders[name], *TEXTS[:2], "--html", str(tmp_path / "page.html"))
        assert 'id="kept"' in (tmp_path / "page.html").read_text(encoding="utf-8")  # the explorer
    for name in RECURRENT:
        command("explain", "--model", folders[name], TEXTS[0], "--html", str(tmp_path / "page.html"))
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "reads the text, word by word" in text
        assert "✓ The proof" in text


def test_alignments_come_from_additive_attention_too(folders, tmp_path):
    command("run", folders["rnnsearch"], "the cat sat", "--alignment", str(tmp_path / "links"))
    for link in (tmp_path / "links").read_text().split():
        assert 0 <= int(link.split("-")[0]) < 3
    with pytest.raises(RegardError, match="needs a translator with attention"):
        command("run", folders["seq2seq"], "the cat sat", "--alignment", str(tmp_path / "none"))


def test_a_language_model_tells_how_likely_a_text_is(folders):
    for name in ("gpt", "llama", "awd_lstm"):
        model = regard.load(folders[name])
        found = model.log_probabilities("the cat sat on the mat")
        assert all(value < 0 for value in found)
        assert model.perplexity("the cat sat on the mat") > 1
        grown = model.generate(["the cat", "Python"], tokens=3)
        assert grown[0].startswith("the cat")
        assert grown[1].startswith("Python")


def test_classes_are_probabilities_and_embeddings_have_length_one(folders):
    for name in ("classifier", "ulmfit"):
        for classes in regard.load(folders[name]).classify(TEXTS[:2]):
            assert {one.text for one in classes} == {"good", "bad"}
            assert sum(one.probability for one in classes) == pytest.approx(1)
    vectors = regard.load(folders["embedder"]).embed(TEXTS[:2])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize(
    ("name", "call", "match"),
    [
        ("gpt", lambda model: model.generate([" "]), "the text is empty"),
        ("gpt", lambda model: model.generate(["the cat " * 20]), "more than the 32 that"),
        ("gpt", lambda model: model.generate(["the cat"], tokens=0), "1 or more"),
        ("bert", lambda model: model.fill("the cat"), r"write \[MASK\] for it"),
        ("bert", lambda model: model.classify(["the cat"]), "cannot classify: it can fill and embed"),
        ("bert", lambda model: model.embed(["the cat " * 20]), "more than the 32 that"),
        ("embedder", lambda model: model.embed(["the cat"], pooling="max"), "pooling is mean or first"),
        ("ulmfit", lambda model: model.embed(["the cat"]), "cannot embed"),
        ("ulmfit", lambda model: model.explain("the cat", head=0), "has no attention heads"),
        ("bert", lambda model: model.explain("the cat", layer=7), "there is no layer 7"),
    ],
)
def test_what_cannot_be_is_told(folders, name, call, match):
    with pytest.raises(RegardError, match=match):
        call(regard.load(folders[name]))
