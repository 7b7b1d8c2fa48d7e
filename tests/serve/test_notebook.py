"""The explorer in a cell: the same page in one file, its questions answered by this process."""

import json
import sys

import pytest
from browser import browser, needs_browser

import regard
from regard.errors import RegardError
from regard.serve.notebook import _SCRIPT, answered, explore
from regard.serve.one_file import one_file
from regard.serve.shelf import Shelf
from regard.serve.traces import Traces

TEXTS = ("Python executes quickly", "Python crawls quickly")
HOST = """<!doctype html><div id="cell"></div><script type="module">
const answers = [];
const model = { get: (name) => window.trait[name], on: (_, hear) => answers.push(hear), off: () => {},
  send: async (data) => { const found = await window.python(data);
    answers.forEach((hear) => hear(found)); window.asked = true; } };
const { default: widget } = await import("data:text/javascript," + encodeURIComponent(window.script));
widget.render({ model, el: document.getElementById("cell") });
</script>"""


@pytest.fixture(scope="module")
def shelf():
    one = Shelf(("en-fr",), regard.load)
    one.open("en-fr")
    return one


def test_a_message_is_answered_or_told_what_is_wrong(shelf):
    traces = Traces(1 << 26)
    found = answered(shelf, traces, {"regard": "1", "path": "/api/trace", "body": {"model": "en-fr", "texts": TEXTS}})
    assert found["regard"] == "1"
    assert [row["text"] for row in found["answer"]["rows"]] == list(TEXTS)
    for path, body, told in (
        ("/api/process", {"model": "en-fr", "texts": TEXTS, "layer": 9}, "there is no layer 9"),
        ("/api/process", {"model": "en-fr", "texts": []}, "texts: List should have at least 1 item"),
        ("/nothing", None, "no path '/nothing'"),
    ):
        assert told in answered(shelf, traces, {"regard": "2", "path": path, "body": body})["error"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_widget_hears_and_answers(monkeypatch):
    pytest.importorskip("anywidget")
    widget = explore("en-fr", *TEXTS)
    sent = []
    monkeypatch.setattr(type(widget), "send", lambda _, content: sent.append(content))
    widget._handle_custom_msg({"regard": "7", "path": "/api/models", "body": None}, [])
    assert sent[0]["answer"]["models"][0]["name"] == "en-fr"
    assert "</script" not in widget.page[widget.page.index("<script") : widget.page.rindex("</script")]


def test_without_anywidget_it_is_plain_html(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    shown = explore("en-fr", *TEXTS)._repr_html_()
    assert "<script" not in shown
    assert "Python" in shown
    with pytest.raises(RegardError, match="empty"):
        explore("en-fr", " ")


@needs_browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_page_in_one_file_works_in_a_frame(shelf):
    traces = Traces(1 << 26)
    with browser() as chromium:
        page = chromium.new_page()
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda asked: said.append(asked.url) if asked.url.startswith("http") else None)
        page.expose_function("python", lambda asked: answered(shelf, traces, asked))
        traits = json.dumps({"page": one_file("model=en-fr&text=Open+the+file")})
        page.add_init_script(f"window.trait = {traits}; window.script = {json.dumps(_SCRIPT)};")
        page.goto("about:blank")
        page.set_content(HOST)
        frame = page.frame_locator("iframe")
        frame.locator('.view[data-shown="process"]').wait_for(timeout=10_000)
        assert frame.locator(".words button").first.inner_text() == "Open"
        frame.locator("#tab-answers").click()
        frame.locator('.view[data-shown="answers"] h2', has_text="Ouvrir le fichier").wait_for(timeout=10_000)
        assert said == []


@pytest.mark.filterwarnings("ignore")
def test_a_notebook_shows_the_page_and_plain_html_of_results():
    """Run by Jupyter's own client; what it shows is what JupyterLab, VS Code, Colab and marimo are given."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("anywidget")
    cells = (
        'import regard\nregard.explore("en-fr", "Python executes quickly")',
        'model = regard.load("en-fr")\nmodel.explain("Python executes quickly", "Python crawls quickly")',
        'model.ask(["lens", "heads"], "Open the file")',
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    page, walk, answers = (cell.outputs[0]["data"] for cell in book.cells)
    plain = book.cells[0].outputs[1]["data"]
    model = page["application/vnd.jupyter.widget-view+json"]["model_id"]
    state = book.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"][model]["state"]
    assert state["page"].startswith("<!doctype html>")
    assert "srcdoc" in str(state["_esm"])
    assert f'<div id="{state["plain"]}">' in plain["text/html"]
    for shown, told in ((plain, "Python"), (walk, "e(Python)"), (answers, "What each layer would answer")):
        assert told in shown["text/html"]
        assert "<script" not in shown["text/html"]
    exported, _ = pytest.importorskip("nbconvert").HTMLExporter().from_notebook_node(book)
    shown = exported[exported.index(f'<div id="{state["plain"]}">') :]
    assert "executes" in shown[: shown.index("</body>")], "what stays, though the widget's state is in the notebook"


@needs_browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kernel", [True, False])
def test_plain_html_stays_until_the_process_has_answered(shelf, kernel):
    with browser() as chromium:
        page = chromium.new_page()
        page.expose_function("python", lambda asked: answered(shelf, Traces(1 << 26), asked) if kernel else {})
        told = f"window.trait = {{page: '<p>the page</p>', plain: 'below'}}; window.script = {json.dumps(_SCRIPT)};"
        page.add_init_script(told)
        page.goto("about:blank")
        page.set_content(HOST + '<div id="below">the walkthrough</div>')
        if kernel:
            page.frame_locator("iframe").get_by_text("the page").wait_for(timeout=10_000)
        page.wait_for_function("window.asked")
        assert page.locator("iframe").count() == int(kernel)
        assert page.locator("#below").is_visible() != kernel
