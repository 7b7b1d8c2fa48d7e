"""regard: attention models, trained and run at full speed, with every number inside them open to view.

>>> import regard
>>> regard.load("en-fr").translate(["Open the file."])
['Ouvrez le fichier.']
"""

from typing import Any

from regard.errors import RegardError

__version__ = "0.1.0"
__all__ = [
    "RegardError",
    "Sequences",
    "TextToText",
    "Trace",
    "Transformer",
    "TransformerConfig",
    "__version__",
    "explore",
    "load",
]

# Where the public names live. They are imported when they are first used, so that `import regard` does not load torch.
_HOMES = {
    "Sequences": "regard.sequences",
    "TextToText": "regard.pipelines.text_to_text",
    "Trace": "regard.explain.trace",
    "Transformer": "regard.models.transformer",
    "TransformerConfig": "regard.models.transformer",
    "explore": "regard.serve.notebook",
    "load": "regard.pipelines",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'regard' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
