"""Whole folders of encoder-decoders: Marian, BART and T5 as transformers writes them, and ours written for it."""

import io
import json

import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)
from typer.testing import CliRunner

import regard
from regard import RegardError
from regard.cli import app
from regard.hub.tokenizers import read_codec, subword_codec
from regard.modalities.subwords import train_subwords
from regard.sequences import Sequences

ENGLISH = ["the cat runs to the house .", "a dog sleeps , it is late !", "who reads 12 books here ?"] * 20
GERMAN = ["die Katze läuft zum Haus .", "ein Hund schläft , es ist spät !", "wer liest hier 12 Bücher ?"] * 20


def spm(texts: list[str], size: int, **more: object) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=size,
        minloglevel=2,
        hard_vocab_limit=False,
        **more,
    )
    return written.getvalue()


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A folder as the hub has it: two SentencePiece models, one numbering, tied weights."""
    folder = tmp_path_factory.mktemp("marian")
    sides = {"source.spm": spm(ENGLISH, 60), "target.spm": spm(GERMAN, 70)}
    pieces = {"</s>", "<unk>", ">>deu<<"}
    for name, model in sides.items():
        (folder / name).write_bytes(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces |= {processor.id_to_piece(token) for token in range(3, processor.get_piece_size())}
    names = ["</s>", "<unk>", *sorted(pieces - {"</s>", "<unk>"}), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    torch.manual_seed(7)
    last = len(names) - 1
    model = MarianMTModel(
        MarianConfig(
            vocab_size=len(names), d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64,
            pad_token_id=last, decoder_start_token_id=last, eos_token_id=0, scale_embedding=True,
        )
    ).eval()  # fmt: skip
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"source_lang": "eng", "target_lang": "deu"}))
    return folder, model


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_marian_reads_with_its_two_tokenizers(marian):
    folder, theirs = marian
    tokenizer = MarianTokenizer.from_pretrained(folder)
    loaded = regard.load(str(folder))
    for text in ("the cat sleeps .", ">>deu<< who is here ?", "a  dog, 12!"):
        ids = tokenizer(text)["input_ids"]
        assert loaded.check(text) == ids
        begun = [theirs.config.decoder_start_token_id, 5, 9]
        with torch.no_grad():
            expected = theirs(torch.tensor([ids]), decoder_input_ids=torch.tensor([begun])).logits[0]
        ours = loaded.model(Sequences.of_ids([ids]), Sequences.of_ids([begun]))
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    german = tokenizer(text_target="die Katze schläft .")["input_ids"]
    assert loaded.codec.target.encode("die Katze schläft .") == german
    assert loaded.codec.target.decode(german) == tokenizer.decode(german, skip_special_tokens=True)
    explained = loaded.explain("the cat sleeps .")
    assert explained.walkthrough.difference < 1e-5
    assert [word.text for word in explained.walkthrough.words][:3] == ["the", "cat", "sleeps"]
    assert explained.alignments


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_any_text_is_cut_as_marian_cuts_it(marian):
    folder, _ = marian
    tokenizer, codec = MarianTokenizer.from_pretrained(folder), read_codec(folder, {"model_type": "marian"})
    letters = st.sampled_from([*"abcdehinorstu ,.!1", "the", " cat", "  "])

    @settings(max_examples=150)
    @given(st.lists(letters, min_size=1, max_size=12).map("".join))
    def check(text):
        assert codec.source.encode(text) == tokenizer(text)["input_ids"]

    check()


def test_a_damaged_numbering_is_told(marian, tmp_path):
    folder, _ = marian
    for name in ("config.json", "model.safetensors", "source.spm", "target.spm"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "vocab.json").write_text('{"</s>": 0, "<unk>": 5}')
    with pytest.raises(RegardError, match="does not number its pieces from 0"):
        regard.load(str(tmp_path))


def test_bart_reads_with_its_tokenizer(tmp_path):
    torch.manual_seed(8)
    tokenizer = train_subwords("bytes", ENGLISH, 320)
    config = BartConfig(
        vocab_size=tokenizer.vocab_size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    model.generation_config.forced_bos_token_id = 1
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    loaded = regard.load(str(tmp_path))
    ids = loaded.check("the cat runs")
    written = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, num_beams=1)[0].tolist()
    [[best]] = loaded.hypotheses(["the cat runs"], beams=1)
    assert list(best.tokens)[:5] == written[1:6]
    assert best.tokens[0] == 1
    assert loaded.explain("the cat runs").walkthrough.difference < 1e-5


def test_t5_reads_with_its_sentencepiece_model(tmp_path):
    torch.manual_seed(9)
    (tmp_path / "spiece.model").write_bytes(spm(ENGLISH, 60, pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    size = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model")).get_piece_size()
    config = T5Config(
        vocab_size=size + 100, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    loaded = regard.load(str(tmp_path))
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    assert loaded.check("the cat sleeps .") == [*library.encode("the cat sleeps ."), 1]
    assert loaded.codec.source.inner.token_to_id("<extra_id_0>") == size + 99
    ids = loaded.check("the cat runs")
    written = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, num_beams=1)[0].tolist()[1:]
    [[best]] = loaded.hypotheses(["the cat runs"], beams=1)
    assert list(best.tokens)[:6] == (written[: written.index(1)] if 1 in written else written)
    assert loaded.explain("the cat runs").walkthrough.difference < 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
@pytest.mark.parametrize(("name", "text"), [("en-fr", "Open the file."), ("g2p", "attention")])
def test_a_translator_of_ours_runs_in_transformers(name, text, tmp_path):
    ended = CliRunner().invoke(app, ["export", name, str(tmp_path / "out"), "--to", "hf"])
    assert ended.exit_code == 0, ended.output
    ours = regard.load(name)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"]
    assert ids == ours.check(text)
    [[best]] = ours.hypotheses([text], beams=1)
    begun = [ours.model.config.bos_token_id, *best.tokens]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids]), decoder_input_ids=torch.tensor([begun])).logits[0]
        found = ours.model(Sequences.of_ids([ids]), Sequences.of_ids([begun]))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    again = regard.load(str(tmp_path / "out"))
    assert again.translate([text]) == ours.translate([text])
    assert subword_codec(ours.codec).target.decode(best.tokens) == ours.translate([text])[0]
