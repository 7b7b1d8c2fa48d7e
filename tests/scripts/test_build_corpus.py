"""The corpus builder on small made-up texts: alignment, cleaning, the split, and what it says when it cannot go on."""

import errno
import json
import random
import shutil
import struct
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import build_corpus as corpus
import corpus_origins as origins
from corpus_origins import Pair


class TestAlignment:
    def test_sentences_are_cut_but_not_after_abbreviations(self):
        text = "Use a tool, e.g. Git. It is fast!  (See J. Doe.) 3 more follow."
        assert origins.sentences(text) == ["Use a tool, e.g. Git.", "It is fast!", "(See J. Doe.)", "3 more follow."]

    def test_french_quotation_marks_stay_with_their_sentence(self):
        assert origins.sentences("Il dit « non. » Puis il part.") == ["Il dit « non. »", "Puis il part."]

    def test_paragraphs_with_unequal_sentences_stay_whole(self):
        assert list(origins.aligned_sentences("One. Two.", "Un, deux.")) == [("One. Two.", "Un, deux.")]
        assert list(origins.aligned_sentences("One. Two.", "Un. Deux.")) == [("One.", "Un."), ("Two.", "Deux.")]

    def test_blocks_of_other_kinds_are_not_aligned(self):
        assert not list(origins.aligned_blocks([("item", "One")], [("paragraph", "Un")]))

    def test_descriptions_are_found_by_digest(self, tmp_path):
        (tmp_path / "x_Packages").write_text("Package: cat-doc\nSource: cat-9 (1.0)\n\nPackage: dog\n")
        english = (
            "Package: cat-doc\nDescription-md5: 1\nDescription-en: A cat\n It purrs\n softly.\n .\n  * It sleeps.\n"
        )
        english += "\nPackage: dog\nDescription-md5: 2\nDescription-en: A dog\n"
        french = "Package: cat-doc\nDescription-md5: 1\nDescription-fr: Un chat\n Il ronronne.\n .\n  \u2013 Il dort.\n"
        french += "\nPackage: dog\nDescription-md5: 3\nDescription-fr: Un autre chien\n"
        (tmp_path / "x_Translation-en").write_text(english, encoding="utf-8")
        (tmp_path / "x_Translation-fr").write_text(french, encoding="utf-8")
        assert list(origins.description_pairs(sorted(tmp_path.iterdir()), "fr")) == [
            Pair("A cat", "Un chat", "ddtp", "cat"),
            Pair("It purrs softly.", "Il ronronne.", "ddtp", "cat"),
            Pair("It sleeps.", "Il dort.", "ddtp", "cat"),
        ]

    @pytest.mark.parametrize(
        ("package", "expected"),
        [
            ("gcc-12", "gcc"),
            ("gcc-defaults", "gcc"),
            ("python3.11", "python"),
            ("r-cran-abc", "r-cran"),
            ("0ad", "0ad"),
        ],
    )
    def test_names_of_one_family_are_one_document(self, package, expected):
        assert origins.family(package) == expected

    def test_help_is_found_by_paragraph_id(self):
        english = (
            '<h1 id="a" dir="auto"><a name="h"></a>Print</h1><p id="b">Press &lt;Enter&gt;<br>twice.</p><p>No id.</p>'
        )
        french = (
            '<p id="b" class="x">Appuyez deux fois sur <b>Entrée</b>.</p><h1 id="a">Imprimer</h1><p id="c">Plus</p>'
        )
        assert sorted(origins.help_pairs({"page": english}, {"page": french})) == [
            Pair("Press <Enter> twice.", "Appuyez deux fois sur Entrée.", "lohelp", "page"),
            Pair("Print", "Imprimer", "lohelp", "page"),
        ]

    def test_help_keeps_one_wording_per_system(self):
        mac = '<span hidden="true" id="MACx" class="MAC"><span class="key">Command</span></span>'
        page = f'<p id="a">Press <span id="s">{mac}<span hidden="true" id="defaultx">Ctrl</span></span>+P.</p>'
        assert origins.help_paragraphs(page) == {"a": "Press Ctrl+P."}

    def test_manual_pages_are_aligned_by_section_until_the_translators_one(self):
        english = '.\\" comment\n.TH CAT 1\n.SH NAME\ncat \\- show\n.SH OPTIONS\n.TP\n.B \\-n\nNumber\n.IR lines .\n'
        french = ".TH CAT 1\n.SH NOM\ncat \\- afficher\n.SH OPTIONS\n.TP\n\\fB\\-n\\fP\nNuméroter\nles lignes.\n"
        french += ".SH TRADUCTION\nTraduit par quelqu'un.\n"
        pairs = [pair[:2] for pair in origins.manual_pairs({"man1/cat.1": english}, {"man1/cat.1": french})]
        assert [pair for pair in pairs if all(pair)] == [
            ("NAME", "NOM"),
            ("cat - show", "cat - afficher"),
            ("OPTIONS", "OPTIONS"),
            ("-n", "-n"),
            ("Number lines.", "Numéroter les lignes."),
        ]

    def test_code_in_manual_pages_is_left_out_and_unknown_escapes_stay_visible(self):
        page = ".SH A\nBefore.\n.nf\nint main;\n.fi\nAfter \\*(xx.\n"
        assert origins.manual_sections(page) == [
            [("SH", "A"), ("text", "Before."), ("skipped", ""), ("text", "After \\*(xx.")]
        ]
        assert origins.manual_sections(".Dd today\n.Sh NAME\n") == []

    def test_catalogs_give_messages_without_context_plural_by_plural(self):
        content = catalog({"": "Content-Type: text/plain; charset=utf-8\n", "menu\4_Open": "_Öffnen", "a\0b": "c\0d"})
        assert sorted(origins.catalog_messages(content)) == [("_Open", "_Öffnen"), ("a\0b", "c\0d")]
        pairs = list(origins.catalog_pairs([("app", content), ("broken", b"no catalog")]))
        assert sorted(pairs) == [
            Pair("Open", "Öffnen", "gettext", "app"),
            Pair("a", "c", "gettext", "app"),
            Pair("b", "d", "gettext", "app"),
        ]

    def test_messages_with_placeholders_are_left_out(self):
        assert not list(origins.catalog_pairs([("app", catalog({"%d files": "%d fichiers", "Hi {name}": "Salut"}))]))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("_File", "File"),
            ("E&xit", "Exit"),
            ("<b>Bold</b> &amp; big", "Bold & big"),
            ("~Edit", "Edit"),
            ("- x", "x"),
        ],
    )
    def test_markup_and_accelerator_keys_are_removed(self, text, expected):
        assert origins.without_markup(text) == expected


class TestCleaning:
    def test_text_becomes_one_line_of_composed_characters(self):
        assert corpus.cleaned(" e\u0301te\u0301\u22c5!\t a\n\u200bb\u202f") == "été\u00a0! a b"

    @pytest.mark.parametrize(
        ("source", "target"),
        [
            ("Press 2 keys.", "Appuyez sur 3 touches."),
            ("Yes.", "Oui, mais seulement si le temps le permet demain matin."),
            ("One two three four five six", "Unedeuxtroisquatre cinq"),
            ("Copy %s here", "Copiez ici"),
            ("The options:", "Les options"),
            ("Good morning", "Доброе утро"),
            ("Some \\*(xx text", "Du texte"),
            ("", "Vide"),
            ("===== a", "===== b"),
            ("word " * 61, "mot " * 61),
        ],
    )
    def test_unsound_pairs_are_refused(self, source, target):
        assert not corpus.is_sound(source, target)

    @pytest.mark.parametrize(
        ("source", "target"),
        [
            ("Close", "Close"),
            ("Read the manual page before installation", "Read the manual page avant installation"),
            ("A cat is on the mat.", "The cat of the house."),
        ],
    )
    def test_untranslated_pairs_are_refused(self, source, target):
        assert not corpus.is_translated(source, target, "fr")

    def test_good_pairs_pass_and_french_list_marks_go(self):
        pair = Pair("Fast start of 2 programs", "démarrage rapide de 2 programmes\u22c5;", "ddtp", "x")
        assert list(corpus.clean_pairs([pair], "fr")) == [pair._replace(target="démarrage rapide de 2 programmes")]

    def test_the_translation_most_documents_agree_on_stays(self):
        pairs = [Pair("Close", "Fermer", "gettext", document) for document in ("b", "c")]
        assert corpus.one_translation_each([Pair("close", "Clore", "gettext", "a"), *pairs]) == [pairs[0]]


WORDS = ["alpha", "beta", "gamma", "delta", "1", "2"]
DOCUMENTS = [
    name
    for split in corpus.SPLITS
    for name in list(filter(lambda name, split=split: corpus.split_of(name) == split, map(str, range(1000))))[:3]
]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
some_pairs = st.lists(st.builds(Pair, texts, texts, st.just("gettext"), st.sampled_from(DOCUMENTS)), max_size=40)


class TestSplit:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(some_pairs, st.randoms(use_true_random=False))
    def test_nothing_held_out_is_trained_on(self, pairs, order):
        splits = corpus.split(pairs)
        for name, others in (("train", ("valid", "test")), ("valid", ("test",))):
            held_out = [pair for other in others for pair in splits[other]]
            for column in ("source", "target"):
                seen = {corpus.masked(getattr(pair, column)) for pair in splits[name]}
                assert not seen.intersection(corpus.masked(getattr(pair, column)) for pair in held_out)
            assert not {pair.document for pair in splits[name]} & {pair.document for pair in held_out}
        assert all(len(pair.source.split()) >= 4 for pair in splits["valid"] + splits["test"])
        shuffled = order.sample(pairs, len(pairs))
        assert corpus.split(shuffled) == splits

    def test_of_a_large_held_out_document_a_sample_stays_and_nothing_is_trained_on(self):
        document = next(name for name in map(str, range(1000)) if corpus.split_of(name) == "test")
        letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=4000)
        texts = [" ".join(letters[i : i + 9]) for i in range(corpus.MOST_HELD_OUT + 50)]
        splits = corpus.split([Pair(text, text.upper(), "gettext", document) for text in texts])
        assert {name: len(pairs) for name, pairs in splits.items()} == {
            "train": 0,
            "valid": 0,
            "test": corpus.MOST_HELD_OUT,
        }

    def test_shares_of_documents_are_as_told(self):
        counts = Counter(corpus.split_of(f"document {number}") for number in range(20_000))
        assert counts["test"] / 20_000 == pytest.approx(corpus.TEST_SHARE, rel=0.2)
        assert counts["valid"] / 20_000 == pytest.approx(corpus.VALID_SHARE, rel=0.2)


class TestCommand:
    def test_the_same_packages_give_the_same_bytes(self, tmp_path, offline):
        folders = [tmp_path / "first", tmp_path / "second"]
        for folder in folders:
            assert corpus.main(["fr", "--out", str(folder), "--work", str(tmp_path / "work")]) == 0
        names = [f"en-fr.{end}" for end in ("json", "test.tsv", "train.tsv", "valid.tsv")]
        assert sorted(path.name for path in folders[0].iterdir()) == names
        assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)
        assert (folders[0] / "en-fr.train.tsv").read_text(encoding="utf-8").splitlines() == [
            "source\ttarget\torigin\tdocument",
            "Press the key twice.\tAppuyez deux fois sur la touche.\tlohelp\tpage",
            "Print\tImprimer\tlohelp\tpage",
        ]
        manifest = json.loads((folders[0] / "en-fr.json").read_text())
        assert manifest["counts"]["train"] == {"lohelp": 2}
        assert manifest["packages"] == {"help": {"sha256": "ab", "version": "1:2"}}

    def test_unknown_language(self, tmp_path, capsys):
        assert corpus.main(["xx", "--out", str(tmp_path / "out")]) == 1
        assert_one_line(capsys, "unknown language 'xx'")

    def test_no_apt(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert corpus.main(["fr", "--out", str(tmp_path / "out")]) == 1
        assert_one_line(capsys, "apt-get not found")

    def test_apt_says_why(self, tmp_path, capsys, monkeypatch):
        program = tmp_path / "apt-get"
        program.write_text(
            "#!/bin/sh\necho 'W: slow' >&2\necho 'E: Failed to fetch' >&2\necho 'E: more' >&2\nexit 100\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        assert corpus.main(["fr", "--out", str(tmp_path / "out")]) == 1
        assert_one_line(capsys, "apt-get update failed: Failed to fetch")

    def test_folder_that_is_a_file(self, tmp_path, capsys):
        (tmp_path / "out").write_text("")
        assert corpus.main(["fr", "--out", str(tmp_path / "out")]) == 1
        assert_one_line(capsys, "File exists")

    def test_full_disk_leaves_no_half_file(self, tmp_path, capsys, monkeypatch, offline):
        def write_some(path, text, encoding):
            path.write_bytes(text.encode()[:5])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(Path, "write_text", write_some)
        assert corpus.main(["fr", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]) == 1
        assert_one_line(capsys, "No space left on device")
        assert list((tmp_path / "out").iterdir()) == []

    @pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
    def test_damaged_package(self, tmp_path):
        (tmp_path / "bad_1_all.deb").write_text("no package")
        with pytest.raises(corpus.CorpusError, match=r"bad_1_all\.deb is damaged"):
            corpus.read_packages([tmp_path / "bad_1_all.deb"], "fr")


@pytest.fixture
def offline(monkeypatch):
    """One package with one help page instead of what apt would fetch."""
    help_pages = {
        "en": {"page": '<h1 id="a">Print</h1><p id="b">Press the key twice.</p>'},
        "fr": {"page": '<h1 id="a">Imprimer</h1><p id="b">Appuyez deux fois sur la touche.</p>'},
    }
    files = corpus.Files(help_pages, {"en": {}, "fr": {}}, [])
    monkeypatch.setattr(corpus.Apt, "update", lambda apt: [])
    monkeypatch.setattr(corpus.Apt, "download", lambda apt, names: [corpus.Package("help", "1:2", "ab", Path("help"))])
    monkeypatch.setattr(corpus, "read_packages", lambda paths, language: files)


def assert_one_line(capsys, told):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("build_corpus: ")
    assert captured.err.count("\n") == 1
    assert told in captured.err


def catalog(messages):
    """A compiled message catalog, as `msgfmt` writes it."""
    entries = sorted((key.encode(), text.encode()) for key, text in messages.items())
    tables, strings = b"", b""
    start = 28 + 16 * len(entries)
    for column in (0, 1):
        for entry in entries:
            tables += struct.pack("<2I", len(entry[column]), start + len(strings))
            strings += entry[column] + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0) + tables + strings
