"""Rows with fields: the same from every format, and a line for each mistake."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError
from regard.data.sources import Pair, read_pairs
from regard.data.tables import Row, read_rows
from regard.data.texts import Text, read_texts

ROWS = [
    {"text": "First, of all", "label": "a"},
    {"text": 'he said "größer"', "label": "b"},
    {"text": "third", "label": "a"},
]


def write_parquet(path, rows, row_group_size=None):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=row_group_size)


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_csv_and_parquet_read_as_the_others(tmp_path):
    write_csv(tmp_path / "x.csv", ROWS)
    write_parquet(tmp_path / "x.parquet", ROWS, row_group_size=2)
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name in ("x.csv", "x.parquet", "x.jsonl"):
        assert list(read_texts(str(tmp_path / name), label="label")) == [
            Text(row["text"], None, row["label"]) for row in ROWS
        ]
        assert list(read_pairs(str(tmp_path / name), "text", "label")) == [
            Pair(row["text"], (row["label"],)) for row in ROWS
        ]


def test_several_files_read_as_one(tmp_path):
    for number, row in enumerate(ROWS):
        write_parquet(tmp_path / f"part-{number}.parquet", [row])
    found = list(read_rows(f"{tmp_path}/part-*.parquet", ["text"]))
    assert [row.fields["text"] for row in found] == [row["text"] for row in ROWS]
    with pytest.raises(RegardError, match="no file is named like"):
        list(read_rows(f"{tmp_path}/none-*.csv", ["text"]))


@given(texts=st.lists(st.text("ab,\"'\n é\t", max_size=6), min_size=1, max_size=5))
def test_csv_keeps_every_sign(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    write_csv(path, [{"text": text, "number": str(number)} for number, text in enumerate(texts)])
    assert [row.fields["text"] for row in read_rows(str(path), ["text"])] == texts


CATALOG = """
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

msgid "Open"
msgstr "Öffnen"

#, fuzzy
msgid "Close"
msgstr "Öffnen"

msgid "Save"
msgstr ""

msgctxt "a menu"
msgid "File %s"
msgstr "Datei %s"

#~ msgid "Old"
#~ msgstr "Alt"
"""


def test_a_gettext_catalog_gives_what_is_translated(tmp_path):
    (tmp_path / "de.po").write_text(CATALOG, encoding="utf-8")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.po").write_text(CATALOG.replace("Datei", "Akte"), encoding="utf-8")
    first = [Pair("Open", ("Öffnen",)), Pair("File %s", ("Datei %s",))]
    assert list(read_pairs(str(tmp_path / "de.po"))) == first
    assert list(read_pairs(str(tmp_path))) == [*first, first[0], Pair("File %s", ("Akte %s",))]
    assert [one.text for one in read_texts(str(tmp_path / "de.po"), text="msgstr")] == ["Öffnen", "Datei %s"]


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from('"\\\\\n\t'), max_size=90
)


@given(st.lists(st.tuples(WORDS, WORDS, st.booleans(), st.booleans()), max_size=5))
def test_a_catalog_reads_as_polib_reads_it(tmp_path_factory, messages):
    polib = pytest.importorskip("polib")
    path, catalog = tmp_path_factory.mktemp("po") / "x.po", polib.POFile(encoding="utf-8")
    for source, target, fuzzy, obsolete in messages:
        catalog.append(polib.POEntry(msgid=source, msgstr=target, flags=["fuzzy"] * fuzzy, obsolete=obsolete))
    catalog.save(str(path))
    again = polib.pofile(str(path), encoding="utf-8")
    known = [one for one in again if one.msgid and one.msgstr and not one.fuzzy and not one.obsolete]
    rows = list(read_rows(str(path), ["msgid", "msgstr"]))
    assert [(row.fields["msgid"], row.fields["msgstr"]) for row in rows] == [(one.msgid, one.msgstr) for one in known]


def test_plural_messages_are_left_out_and_names_of_lines_are_right(tmp_path):
    (tmp_path / "x.po").write_text(
        '\n#, c-format\nmsgid "%d file"\nmsgid_plural "%d files"\nmsgstr[0] "a"\nmsgstr[1] "b"\n'
        '# no blank line before\nmsgctxt "menu"\nmsgid ""\n"Op"\n"en"\nmsgstr "Auf"\nmsgid "Shut"\nmsgstr "Zu"'
    )
    rows = list(read_rows(str(tmp_path / "x.po"), ["msgid"]))
    assert [(row.place.split(", ")[1], *row.fields.values()) for row in rows] == [
        ("line 9", "menu", "Open", "Auf"),
        ("line 13", "", "Shut", "Zu"),
    ]


@pytest.mark.parametrize("text", ['\n"a"\n', 'msgid "a"\nmsgstr\nno\n', 'msgid "a"\nmsgstr "b" c\n'])
def test_a_catalog_that_does_not_parse_is_told_with_its_line(tmp_path, text):
    (tmp_path / "x.po").write_text(text)
    with pytest.raises(RegardError, match=r"x\.po, line 2: not as in a gettext catalog"):
        list(read_rows(str(tmp_path / "x.po"), []))


def test_splits_of_a_hub_data_set(tmp_path):
    pytest.importorskip("datasets")
    for part, text in (("train", "one"), ("validation", "two")):
        (tmp_path / f"{part}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    assert list(read_texts(f"hub:{tmp_path}")) == [Text("one")]
    assert list(read_texts(f"hub:{tmp_path}@validation")) == [Text("two")]
    with pytest.raises(RegardError, match=r"row 1: no field 'label' \(it has: text\)"):
        list(read_texts(f"hub:{tmp_path}", label="label"))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("x.csv", "text,label\na,b\n\nc\n", r"x\.csv, line 4: 1 columns, the first line names 2"),
        ("x.csv", 'text,label\n"two\nlines",b\nc\n', r"x\.csv, line 4: 1 columns"),
        ("x.csv", 'text,label\na,"b" c\n', r"x\.csv, line 2: not valid CSV"),
        ("x.csv", "text\na\n", r"no column 'label' \(its first line names: text\)"),
        ("x.parquet", "no\n", r"x\.parquet, after row 0: cannot be read"),
        ("x.po", "", r"no field 'text': a gettext catalog has msgid, msgstr"),
        ("x.jsonl", '{"text": null, "label": "a"}\n', r"x\.jsonl, line 1: 'text' holds None, not a text"),
        ("x.jsonl", '{"text": ["a"], "label": "a"}\n', r"line 1: 'text' holds \['a'\], not a text"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path, name, content, match):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RegardError, match=match):
        list(read_texts(str(tmp_path / name), label="label"))


def test_a_parquet_without_the_column(tmp_path):
    write_parquet(tmp_path / "x.parquet", [{"text": "a"}])
    with pytest.raises(RegardError, match=r"no column 'label' \(it has: text\)"):
        list(read_texts(str(tmp_path / "x.parquet"), label="label"))
    for ending in ("parquet", "csv", "po", "jsonl"):
        with pytest.raises(RegardError, match="cannot be read"):
            list(read_rows(f"{tmp_path}/none.{ending}", []))


def test_a_parquet_of_one_row_group_is_not_read_whole(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": [f"{number:0500d}" for number in range(40_000)]})
    parquet.write_table(table, tmp_path / "x.parquet", compression="none", use_dictionary=False, row_group_size=1 << 30)
    del table
    before = pyarrow.total_allocated_bytes()
    rows = read_rows(str(tmp_path / "x.parquet"), ["text"])
    next(rows)
    assert pyarrow.total_allocated_bytes() - before < 8 << 20  # of 20 MB
    assert sum(1 for _ in rows) == 39_999


def test_lists_of_words():
    assert Row("x", {"words": ["a", "b c"]}).texts("words") == ["a", "b c"]
    assert Row("x", {"words": "a b  c"}).texts("words") == ["a", "b", "c"]
    with pytest.raises(RegardError, match="x: 'words' holds 3, not a list of texts"):
        Row("x", {"words": 3}).texts("words")
