"""BERT folders in and out: what we write, transformers loads; what we cannot compute is refused by name."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AlbertConfig as TheirAlbertConfig
from transformers import BertConfig as TheirBertConfig
from transformers import BertForPreTraining, BertModel, DistilBertConfig, RobertaConfig

from regard import RegardError, Sequences
from regard.hub import bert as hub
from regard.models.albert import Albert, AlbertConfig
from regard.models.base import check_weights
from regard.models.bert import Bert, BertConfig

SIZES = {
    "vocab_size": 29,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
}
IDS = torch.tensor([[5, 6, 7, 8, 3]])
LABELS = {"labels": ("a", "b", "c")}
DISTIL = {"type_vocab_size": 0, "pooler": None}
ROBERTA = {"type_vocab_size": 1, "pad_token_id": 1, "first_position": 2, "pooler": None}
ALBERT = {"embedding_size": 7, "num_hidden_groups": 2}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "BertForPreTraining"),
        ({"heads": (), "hidden_act": "relu", "layer_norm_eps": 0.1}, "BertModel"),
        ({"heads": ("masked_words",), "pooler": None, "tie_word_embeddings": False}, "BertForMaskedLM"),
        ({"heads": ("next_sentence",), "type_vocab_size": 3}, "BertForNextSentencePrediction"),
        ({"heads": ("classification",), **LABELS}, "BertForSequenceClassification"),
        ({"heads": ("token_labels",), "pooler": None, **LABELS}, "BertForTokenClassification"),
        ({"heads": ("spans",), "pooler": None}, "BertForQuestionAnswering"),
        ({"heads": ("masked_words",), **DISTIL}, "DistilBertForMaskedLM"),
        ({"heads": ("masked_words",), **DISTIL, "tie_word_embeddings": False}, "DistilBertForMaskedLM"),
        ({"heads": ("classification",), **DISTIL, "pooler": "relu", **LABELS}, "DistilBertForSequenceClassification"),
        ({"heads": ("masked_words",), **ROBERTA}, "RobertaForMaskedLM"),
        ({"heads": (), **ROBERTA, "pooler": "tanh"}, "RobertaModel"),
        ({"heads": ("classification",), **ROBERTA, "pooler": "tanh", **LABELS}, "RobertaForSequenceClassification"),
        (ALBERT, "AlbertForPreTraining"),
        ({**ALBERT, "heads": ("masked_words",), "pooler": None}, "AlbertForMaskedLM"),
    ],
)
def test_transformers_loads_what_we_write(tmp_path, changes, kind):
    albert = kind.startswith("Albert")
    ours, config = (Albert, AlbertConfig) if albert else (Bert, BertConfig)
    model = ours(config(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    fields = hub.write_config(model.config)
    assert fields["architectures"] == [kind]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save_file(hub.write_weights(model.config, model.state_dict()), tmp_path / "model.safetensors", {"format": "pt"})
    theirs, told = getattr(transformers, kind).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    other = theirs.eval()(IDS)
    tokens = Sequences.of_ids(IDS.tolist())
    hidden = model.hidden(tokens)
    if kind.endswith("Model"):
        assert (hidden.values - other.last_hidden_state[0]).abs().max() < 1e-5
        assert (model.pool(hidden) - other.pooler_output).abs().max() < 1e-5
    for name, scores in model(tokens).items():
        if name == "spans":
            expected = torch.stack([other.start_logits[0], other.end_logits[0]], dim=-1)
        elif name == "masked_words":
            expected = (other.prediction_logits if "PreTraining" in kind else other.logits)[0]
        elif "PreTraining" in kind:
            expected = other.sop_logits if albert else other.seq_relationship_logits
        else:
            expected = other.logits
        assert (scores - expected.view(scores.shape)).abs().max() < 1e-5, name
    again = hub.read_config(json.loads((tmp_path / "config.json").read_text()))
    training = {"classifier_dropout", "pooler_dropout", "qa_dropout"}
    assert again.model_dump(exclude=training) == model.config.model_dump(exclude=training)
    # And what they write, we read: tied matrices are written once, under one of their names.
    theirs.save_pretrained(tmp_path / "theirs")
    weights = hub.read_weights(again, load_file(tmp_path / "theirs" / "model.safetensors"))
    check_weights(ours(again), weights, tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(weights[name], value), name


def test_a_checkpoint_of_the_first_days_is_read():
    """Norms with gamma and beta, buffers, heads that are not asked for; with and without the prefix."""
    theirs = BertForPreTraining(TheirBertConfig(**SIZES)).eval()
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in theirs.state_dict().items()
    } | {"bert.embeddings.position_ids": torch.arange(17)[None]}
    bare = {name.removeprefix("bert."): value for name, value in renamed.items() if name.startswith("bert.")}
    tokens, other = Sequences.of_ids(IDS.tolist()), theirs(IDS)
    for kind, weights in (("BertForMaskedLM", renamed), ("BertForPreTraining", renamed), ("BertModel", bare)):
        config = hub.read_config({**theirs.config.to_dict(), "architectures": [kind]})
        model = Bert(config).eval()
        found = hub.read_weights(config, weights)
        assert found.keys() == model.state_dict().keys()
        model.load_state_dict(found)
        expected = theirs.bert(IDS).last_hidden_state[0]
        assert (model.hidden(tokens).values - expected).abs().max() < 1e-5
        if kind != "BertModel":
            assert (model(tokens)["masked_words"] - other.prediction_logits[0]).abs().max() < 1e-5


def test_what_is_missing_or_too_much_is_told_by_name(tmp_path):
    config = BertConfig(**SIZES)
    weights = hub.write_weights(config, Bert(config).state_dict())
    del weights["bert.encoder.layer.1.attention.self.key.weight"]
    weights["bert.encoder.layer.9.extra"] = torch.ones(1)
    with pytest.raises(RegardError) as error:
        check_weights(Bert(config), hub.read_weights(config, weights), tmp_path)
    for told in (
        "missing encoder.layers.1.self_attention.projection.weight",
        "unexpected bert.encoder.layer.1.attention.self.query.weight",
        "unexpected bert.encoder.layer.9.extra",
    ):
        assert told in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"is_decoder": True}, "is_decoder True is not supported, only False"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"hidden_act": "mish"}, "hidden_act"),
        ({"architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice is not supported, only BertModel"),
        ({"model_type": "berd"}, "no model type of this family 'berd'; did you mean bert?"),
        ({"num_attention_heads": 5}, "cannot be cut into 5 heads"),
    ],
)
def test_a_switch_that_is_not_computed_is_refused(change, told):
    with pytest.raises(RegardError, match=told):
        hub.read_config({**TheirBertConfig(**SIZES).to_dict(), **change})


def test_what_another_family_does_not_compute_is_refused():
    roberta = RobertaConfig(**SIZES, hidden_act="relu").to_dict() | {"architectures": ["RobertaForMaskedLM"]}
    with pytest.raises(RegardError, match="hidden_act 'relu' is not supported with lm_head"):
        hub.read_config(roberta)
    with pytest.raises(RegardError, match="needs a pad_token_id"):
        hub.read_config({**roberta, "hidden_act": "gelu", "pad_token_id": None})
    with pytest.raises(RegardError, match="DistilBertForPreTraining is not supported"):
        hub.read_config({"model_type": "distilbert", "architectures": ["DistilBertForPreTraining"]})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"heads": ("masked_words", "spans")}, "Bert has no class with these heads together: masked_words, spans"),
        ({"heads": ("next_sentence",), **ROBERTA, "pooler": "tanh"}, "Roberta has no class"),
        ({"heads": ("masked_words",)}, "cannot say pooler 'tanh'"),
        ({"heads": (), **DISTIL, "layer_norm_eps": 0.1}, "cannot say layer_norm_eps"),
        ({"heads": ("masked_words",), **ROBERTA, "first_position": 5}, "cannot say first_position 5"),
    ],
)
def test_what_the_format_cannot_say_is_refused(changes, told):
    with pytest.raises(RegardError, match=told):
        hub.write_config(BertConfig(**{**SIZES, **changes}))


@pytest.mark.parametrize("kind", [TheirBertConfig, DistilBertConfig, RobertaConfig, TheirAlbertConfig])
def test_an_absent_field_means_what_it_means_there(kind):
    assert hub.read_config({"model_type": kind.model_type}) == hub.read_config(kind().to_dict())


def test_a_pooler_that_is_not_asked_for_is_left_out():
    theirs = BertModel(TheirBertConfig(**SIZES))
    config = hub.read_config({**theirs.config.to_dict(), "architectures": ["BertForMaskedLM"]})
    assert config.pooler is None
    assert not [name for name in hub.read_weights(config, theirs.state_dict()) if "pooler" in name]
