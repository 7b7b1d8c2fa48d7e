"""Search options in words: what the pipelines make of them, for a translator and a byte-level language model."""

import pytest

import regard
from regard import RegardError
from regard.generation.settings import contains
from regard.modalities.subwords import train_subwords
from regard.models.gpt import GPT, GPTConfig
from regard.pipelines.language_model import LanguageModel

TEXT = "Open the file."


@pytest.fixture(scope="module")
def translator():
    return regard.load("en-fr")


@pytest.fixture(scope="module")
def writer():
    tokenizer = train_subwords("bytes", ["the cat runs home and the dog sleeps at home"] * 8, 300)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}
    return LanguageModel("tiny", GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **sizes)).eval(), tokenizer)


def test_words_that_must_and_must_not_be_there(translator):
    [free] = translator.translate([TEXT])
    assert free == "Ouvrez le fichier."
    [other] = translator.translate([TEXT], must_not="Ouvrez")
    assert "Ouvrez" not in other
    [found] = translator.translate([TEXT], beams=4, must=["nouveau", "fichier"])
    assert "nouveau" in found
    assert "fichier" in found
    [begun] = translator.translate([TEXT], prefix="Veuillez")
    assert begun.startswith("Veuillez ")


def test_a_draft_changes_no_text(translator):
    texts = [TEXT, "The package was not found."]
    assert translator.translate(texts, draft="source") == translator.translate(texts)
    assert translator.translate(texts, draft=translator) == translator.translate(texts)


def test_samples_do_not_depend_on_the_other_texts(translator):
    texts = [TEXT, "The package was not found.", "Close the window."]
    how = {"temperature": 1.5, "seed": 4, "n_best": 2}
    together = translator.hypotheses(texts, **how)
    [alone] = translator.hypotheses(texts[1:2], numbers=[1], **how)
    assert [one.tokens for one in alone] == [one.tokens for one in together[1]]


def test_links_of_named_heads(translator):
    [[best]] = translator.hypotheses([TEXT])
    weights = translator.attention(TEXT, best.tokens, [(1, 0), (1, 2)])
    assert weights.shape == (2, len(best.tokens) + 1, len(translator.check(TEXT)))
    aligned = translator.align(TEXT, best.tokens, heads=[(1, 0)])
    assert (aligned.layer, aligned.head) == (1, 0)
    assert aligned.pharaoh()


def test_a_named_head_is_the_one_a_trace_shows(translator):
    from regard.explain.alignment import align

    [[best]] = translator.hypotheses([TEXT])
    expected = align(translator.trace([TEXT], [best.tokens]), layer=0, head=3, by_chunk=True)
    found = translator.align(TEXT, best.tokens, heads=[(0, 3)])
    assert found.pharaoh() == expected.pharaoh()
    assert (found.weights - expected.weights).abs().max() < 1e-5


def test_a_language_model_excludes_a_word_with_and_without_its_blank(writer):
    how = writer.search(8, must_not="home")
    alone, within = (tuple(writer.tokenizer.encode(text)[1:-1]) for text in ("home", " home"))
    assert set(how.must_not) == {alone, within}
    how = writer.search(8, beams=2, must="home")
    assert how.must == (within,)
    [found] = writer.generate(["the cat"], 12, beams=4, must=["sleeps"], prefix=" and")
    assert found.startswith("the cat and")
    assert " sleeps" in found
    [answers] = writer.hypotheses(["the cat"], 6, repetition_penalty=1.3, draft="source")
    assert not contains(answers[0].tokens, (-1,))
    assert writer.attention("the cat", answers[0].tokens, [(1, 1)]).shape[1] == len(answers[0].tokens) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": " "}, "prefix must be a text of one word or more"),
        ({"must_not": [""]}, "must_not must be a text of one word or more"),
        ({"top_q": 0.9}, "no search option 'top_q'; did you mean"),
        ({"draft": "nothing"}, "draft is a loaded model or 'source', not 'nothing'"),
    ],
)
def test_what_is_wrong_is_named(translator, options, message):
    with pytest.raises(RegardError, match=message):
        translator.translate([TEXT], **options)


def test_a_draft_needs_the_same_tokenizer(translator, writer):
    with pytest.raises(RegardError, match="tiny cannot be a draft of en-fr: their tokenizers differ"):
        translator.translate([TEXT], draft=writer)
