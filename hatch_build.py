"""Compiles the native kernels when the package is installed, if there is a C++ compiler; without one it works, slower.

REGARD_ARCH says for which processor (a value of the compiler's -march; by default the one at hand), REGARD_NATIVE=0
that nothing is compiled.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("regard/native")
FLAGS = ["-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")


class NativeKernels(BuildHookInterface):
    """Adds regard/native/kernels.so to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = Path(self.root) / FOLDER / "kernels.so"
        target.unlink(missing_ok=True)
        if self.target_name == "wheel" and compile_kernels(Path(self.root) / FOLDER, target):
            build_data["pure_python"], build_data["infer_tag"] = False, True
            build_data["artifacts"].append(str(FOLDER / "kernels.so"))


def compile_kernels(folder: Path, target: Path) -> bool:
    """Whether the kernels were compiled into `target`."""
    compiler = next(
        (one for one in (os.environ.get("CXX"), "c++", "g++", "clang++") if one and shutil.which(one)), None
    )
    if compiler is None or os.environ.get("REGARD_NATIVE") == "0" or not sys.platform.startswith("linux"):
        return False
    architecture = f"-march={os.environ.get('REGARD_ARCH', 'native')}"
    built = target.with_suffix(".o")
    # Linked without an OpenMP of its own: it takes the one that PyTorch has loaded.
    commands = (
        [compiler, *FLAGS, architecture, "-c", str(folder / "program.cpp"), "-o", str(built)],
        [compiler, "-shared", str(built), "-o", str(target)],
    )
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "") or str(error)
        sys.stderr.write(f"regard: the native kernels were not compiled, the package works without them: {told}\n")
        target.unlink(missing_ok=True)
        return False
    finally:
        built.unlink(missing_ok=True)
    return True
