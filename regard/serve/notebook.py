"""The explorer in a notebook cell: the same page, asking the model of this very process. Needs `anywidget`.

    >>> regard.explore("en-fr", "Python executes quickly", "Python crawls quickly")

Where anywidget is not installed, the first text's walkthrough shows itself as plain HTML instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

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
export default {
  render({ model, el }) {
    const frame = document.createElement("iframe");
    frame.title = "regard: the explorer";
    frame.style.cssText = "width: 100%; height: 56rem; border: 0; display: block";
    const asked = ({ source, data }) => {
      if (source === frame.contentWindow && data && data.regard) model.send(data);
    };
    const answered = (data) => frame.contentWindow && frame.contentWindow.postMessage(data, "*");
    addEventListener("message", asked);
    model.on("msg:custom", answered);
    frame.srcdoc = model.get("page");
    el.append(frame);
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

        def __init__(self) -> None:
            super().__init__(page=page)
            self.on_msg(lambda _, asked, __: self.send(answered(shelf, traces, asked)))

        def _repr_mimebundle_(self, **kwargs: Any) -> Any:
            """The widget; and plain HTML for what runs no widgets, such as a notebook that was exported."""
            found = super()._repr_mimebundle_(**kwargs)
            if found is not None:
                (found[0] if isinstance(found, tuple) else found)["text/html"] = plain()._repr_html_()
            return found

    return Explorer()
