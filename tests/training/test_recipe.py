"""A recipe is one validated file; what is wrong in it is named in one line."""

import pytest

from regard import RegardError
from regard.training.recipe import load_recipe, parse_recipe, recipe_names

MINIMAL = 'name = "tiny"\n[data]\nsource = "cmudict"\n'


def refused(match, text=MINIMAL, changes=()):
    with pytest.raises(RegardError, match=match) as told:
        parse_recipe(text, "tiny.toml", list(changes))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_is_valid_and_named_as_its_file(name):
    assert load_recipe(name).name == name


def test_what_is_not_said_is_the_papers():
    recipe = parse_recipe(MINIMAL, "tiny.toml", [])
    assert (recipe.model.d_model, recipe.model.encoder_layers, recipe.model.attention_heads) == (512, 6, 8)
    assert (recipe.training.adam_betas, recipe.training.adam_epsilon) == ((0.9, 0.98), 1e-9)
    assert (recipe.training.warmup_steps, recipe.training.label_smoothing) == (4000, 0.1)
    assert (recipe.score.beams, recipe.score.length_penalty) == (4, 0.6)


def test_an_unknown_field_is_named():
    refused(r"tiny\.toml: model: unknown field 'd_modle'", MINIMAL + "[model]\nd_modle = 4\n")
    refused(r"unknown field 'modle'", MINIMAL + "[modle]\nd_model = 4\n")


def test_a_wrong_value_is_named_with_its_field():
    refused(r"training\.max_steps: .*greater than 0, got -5", changes=["training.max_steps=-5"])
    refused(r"training\.warmup_steps: .*integer.*got 'many'", changes=["training.warmup_steps=many"])
    refused(r"training\.precision: .*'fp32' or 'bf16', got 'fp7'", changes=["training.precision=fp7"])


def test_sizes_that_make_no_model_are_refused_before_anything_is_read():
    refused(r"tiny\.toml: model: .*d_model 10 cannot be cut into 8 heads$", changes=["model.d_model=10"])
    refused(r"tiny\.toml: model: dropout: .*less than 1, got 1\.5$", changes=["model.dropout=1.5"])
    refused(r"tiny\.toml: model: ffn_dim: .*greater than 0, got -4$", changes=["model.ffn_dim=-4"])


def test_several_mistakes_are_counted():
    refused(r"\(and 1 more\)", changes=["training.max_steps=0", "training.patience=0"])


def test_a_missing_field_is_named():
    refused("name: field required", '[data]\nsource = "cmudict"\n')
    refused("files need train, valid and test", 'name = "tiny"\n[data]\ntrain = "pairs.tsv"\n')


def test_text_that_is_not_toml():
    refused(r"tiny\.toml: not valid TOML", "name = ")


def test_changes_are_read_as_toml_or_as_text():
    changes = ["training.max_steps=100", "training.adam_betas=[0.8, 0.9]", "title=A = B", "model.normalize_before=true"]
    recipe = parse_recipe(MINIMAL, "tiny.toml", changes)
    assert recipe.training.max_steps == 100
    assert recipe.training.adam_betas == (0.8, 0.9)
    assert recipe.title == "A = B"
    assert recipe.model.normalize_before
    assert recipe.data.source == "cmudict"


def test_a_change_that_makes_no_sense():
    refused(r"reads part\.field=value, not 'training'", changes=["training"])
    refused("the recipe has no part 'name'", changes=["name.max_steps=3"])


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(RegardError, match=r"no recipe 'g2q'; did you mean g2p"):
        load_recipe("g2q")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RegardError, match=r"no recipe file .*none\.toml"):
        load_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(RegardError, match=r"latin\.toml cannot be read"):
        load_recipe(str(tmp_path / "latin.toml"))
    (tmp_path / "recipe").write_text(MINIMAL)
    assert load_recipe(str(tmp_path / "recipe")).name == "tiny"
