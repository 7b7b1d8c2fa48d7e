"""SQuAD's nested files give the questions of the flat ones, an article at a time."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError
from regard.data import squad
from regard.data.spans import read_questions


def article(*paragraphs):
    return {"title": "x", "paragraphs": list(paragraphs)}


def paragraph(context, *qas):
    return {"context": context, "qas": list(qas)}


def asked(question, context, *answers, **more):
    places = [{"text": one, "answer_start": context.index(one)} for one in answers]
    return {"question": question, "id": f"id-{question}", "answers": places, **more}


RAIN, SUN = "It rains in Rome today.", "The sun is a star."
NESTED = {
    "version": "v2.0",
    "data": [
        article(paragraph(RAIN, asked("where?", RAIN, "Rome", "in Rome"), asked("when?", RAIN, "today"))),
        article(paragraph(SUN, asked("what?", SUN, "a star"), asked("who?", SUN, "sun", is_impossible=True))),
    ],
}


def questions(path):
    return list(read_questions(str(path), "question", "context", "answers"))


def test_nested_and_flat_files_are_read_alike(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(NESTED, indent=1))
    flat = []
    for one in NESTED["data"]:
        for part in one["paragraphs"]:
            for asked in part["qas"]:
                given = [] if asked.get("is_impossible") else asked["answers"]
                answers = {name: [each[name] for each in given] for name in ("text", "answer_start")}
                flat.append({"question": asked["question"], "context": part["context"], "answers": answers})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flat))
    found = questions(tmp_path / "train.json")
    assert found == questions(tmp_path / "train.jsonl")
    assert [one.answers for one in found] == [("Rome", "in Rome"), ("today",), ("a star",), ()]
    assert (found[0].begin, found[3].begin) == (12, -1)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=30), max_size=4), max_size=6), st.integers(1, 40))
def test_articles_come_one_by_one_whatever_the_chunks(tmp_path_factory, articles, chunk):
    path = tmp_path_factory.mktemp("squad") / "x.json"
    path.write_text(json.dumps({"data": articles, "version": "1"}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(squad, "_CHUNK", chunk)
        assert list(squad.read_articles(path)) == articles


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"version": "1"}', r"x\.json is not in SQuAD's format"),
        (json.dumps(NESTED)[:-80], r"x\.json, after article 1: not valid JSON"),
        ('{"data": [{"title": "x"}]}', r"article 1: 'paragraphs' is not a list of objects"),
        (
            json.dumps(NESTED).replace('"answer_start": 12', '"answer_start": null'),
            "question 'id-where\\?': an answer needs",
        ),
        (
            json.dumps(NESTED).replace('"answer_start": 12', '"answer_start": 3'),
            "question 'id-where\\?': the answer 'Rome'",
        ),
        (json.dumps(NESTED).replace('"question": "when?", ', ""), "'question' holds None, not a text"),
    ],
)
def test_what_is_not_as_it_should_be_is_named(tmp_path, text, match):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RegardError, match=match):
        questions(tmp_path / "x.json")


def test_no_file(tmp_path):
    with pytest.raises(RegardError, match="cannot be read: No such file"):
        questions(tmp_path / "none.json")
