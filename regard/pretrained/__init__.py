"""Small trained models that come with the package, and where a model's name leads."""

from __future__ import annotations

from pathlib import Path

from regard.errors import RegardError, unknown

DEFAULT = "en-fr"
_HERE = Path(__file__).parent


def names() -> list[str]:
    """The models in the package."""
    return sorted(path.parent.name for path in _HERE.glob("*/config.json"))


def find(name_or_folder: str) -> Path:
    """The folder of a model: a name of the package's, a model folder, or the folder of a training run."""
    if name_or_folder in names():
        return _HERE / name_or_folder
    folder = Path(name_or_folder)
    if (folder / "model" / "config.json").is_file() and not (folder / "config.json").exists():
        return folder / "model"
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RegardError(f"{folder} is not a model folder: it has no config.json")
        return folder
    if "/" in name_or_folder or "\\" in name_or_folder:
        raise RegardError(f"there is no model folder {folder}")
    raise unknown("model", name_or_folder, names())
