"""The explorer in a notebook cell: the same page, asking the model of this very process. Needs `anywidget`.

    >>> regard.explore("en-fr", "Python executes quickly", "Python crawls quickly")

Where anywidget is not installed, the first text's walkthrough shows itself as plain HTML instead. The same HTML stands
below the page, out of sight as long as this process answers: a notebook that was exported, or is opened without its
kernel, shows that. It must be an output of its own, because nbconvert shows a widget's state rather than the HTML
beside it, and without a kernel that is an empty cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from regard.errors import RegardError
from regard.pipelines import load
from regard.pretrained import DEFAULT
from regard.serve.direct import answer
from regard.serve.one_file import one_file
from regard.serve.shelf import Shelf
from regard.serve.traces import Traces

MEMORY = 1 << 29
"""Bytes of traces that a cell keeps."""
_SCRIPT = """
// Nothing is shown before the process has answered once: without a kernel the plain HTML stays.
export default {
  render({ model, el }) {
    const frame = document.createElement("iframe");
    frame.title = "regard: the explorer";
    frame.style.cssText = "width: 100%; height: 56rem; border: 0; display: block";
    const asked = ({ source, data }) => {
      if (source === frame.contentWindow && data && data.regard) model.send(data);
    };
    const answered = (data) => {
      if (data.regard !== "there?") return frame.contentWindow && frame.contentWindow.postMessage(data, "*");
      if (frame.isConnected) return;
      frame.srcdoc = model.get("page");
      const hidden = document.createElement("style");
      hidden.textContent = "#" + model.get("plain") + " { display: none }";
      el.append(hidden, frame);
    };
    addEventListener("message", asked);
    model.on("msg:custom", answered);
    model.send({ regard: "there?", path: "/api/models", body: null });
    return () => {
      removeEventListener("message", asked);
      model.off("msg:custom", answered);
    };
  },
};
"""


def explore(model: Any = DEFAULT, *texts: str) -> Any:
    """The explorer of a model (a name, a folder, or what `regard.load` gave) as the value of a notebook cell.

    Raises RegardError for a model that is not there and for texts that it cannot read.
    """
    pipeline: Any = load(model) if isinstance(model, str) else model
    shelf = Shelf((str(pipeline.name),), lambda _: pipeline)
    (name,) = shelf.volumes
    shelf.open(name)
    for text in texts:
        pipeline.check(text)
    traces = Traces(MEMORY)
    page = one_file(urlencode([("model", name), *(("text", text) for text in texts)]))
    try:
        return _widget(page, shelf, traces, lambda: _plain(pipeline, texts))
    except ImportError:
        return _plain(pipeline, texts)


def _plain(pipeline: Any, texts: tuple[str, ...]) -> Any:
    """What stands in for the widget: the walkthrough, drawn without a script."""
    return pipeline.explain(*(texts or ("Python executes quickly",)))


def answered(shelf: Shelf, traces: Traces, asked: dict[str, Any]) -> dict[str, Any]:
    """The message that answers one from the page."""
    number = asked.get("regard")
    try:
        return {"regard": number, "answer": answer(shelf, traces, str(asked.get("path")), asked.get("body"))}
    except RegardError as error:
        return {"regard": number, "error": str(error)}


def _widget(page: str, shelf: Shelf, traces: Traces, plain: Callable[[], Any]) -> Any:
    import anywidget
    import traitlets

    class Explorer(anywidget.AnyWidget):
        """The page and the way of its questions."""

        _esm = _SCRIPT
        page = traitlets.Unicode().tag(sync=True)
        plain = traitlets.Unicode().tag(sync=True)
        """The id of the plain HTML, which the page takes the place of."""

        def __init__(self) -> None:
            super().__init__(page=page, plain=f"regard-{uuid4().hex}")
            self.on_msg(lambda _, asked, __: self.send(answered(shelf, traces, asked)))

        def _repr_mimebundle_(self, **kwargs: Any) -> Any:
            """The widget, and plain HTML for what runs no widgets."""
            found = super()._repr_mimebundle_(**kwargs)
            if found is not None:
                (found[0] if isinstance(found, tuple) else found)["text/html"] = plain()._repr_html_()
            return found

        def _ipython_display_(self, **kwargs: Any) -> None:
            """The widget, and plain HTML as an output of its own for a notebook that was exported."""
            from IPython import display

            show: Any = display.display
            bundle = super()._repr_mimebundle_(**kwargs)
            data = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
            show(data | {"text/plain": "regard: the explorer answers while the notebook runs"}, raw=True)
            html = f'<div id="{self.plain}">{plain()._repr_html_()}</div>'
            show({"text/html": html, "text/plain": "regard: the walkthrough"}, raw=True)

    return Explorer()
