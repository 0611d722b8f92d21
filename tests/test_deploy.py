"""The code of the page "Deploy": each language loads the same file, and its outputs are those of Python."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import web_site

from keras_butterfly.export.measurement.devices import browser_packages
from keras_butterfly.export.model import predict

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
HEADERS = "LITERT_HEADERS"


def code(language: str) -> str:
    """The one block of code in a language, or the blocks one after the other."""
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the file that the page's first block exports."""
    where = tmp_path_factory.mktemp("deploy")
    export, run = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    keras.utils.set_random_seed(0)
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setenv("KERAS_BUTTERFLY_EFFORT", "estimate")
        exec(compile(export, "deploy.md", "exec"), {})
        exec(compile(run, "deploy.md", "exec"), names)
    assert names["scores"].shape == (1, 10)
    return where


@pytest.fixture(scope="module")
def image():
    """The image that the program in C++ makes."""
    return ((np.arange(784) % 7) / np.float32(7)).astype("float32")


def expected(folder, image):
    return predict((folder / "model.tflite").read_bytes(), image[None])[0]


def test_javascript(folder, image):
    web_site.skip_without_browser()
    packages = browser_packages.packages_folder() / "node_modules" / "@litertjs"
    shutil.copytree(packages / "core" / "wasm", folder / "wasm", dirs_exist_ok=True)
    for name in ("core", "wasm-utils"):
        shutil.copyfile(packages / name / "dist" / "index.js", folder / f"{name}.js")
    (folder / "classify.js").write_text(code("javascript"))
    imports = '{"imports": {"@litertjs/core": "./core.js", "@litertjs/wasm-utils": "./wasm-utils.js"}}'
    (folder / "index.html").write_text(f'<!DOCTYPE html><body><script type="importmap">{imports}</script></body>')
    with web_site.opened(folder) as chromium:
        call = f"import('./classify.js').then(code => code.classify(new Float32Array({image.tolist()})))"
        scores = chromium.evaluate(f"{call}.then(scores => [...scores])")
    np.testing.assert_allclose(scores, expected(folder, image), rtol=1e-5, atol=1e-6)


def test_cpp(folder, image):
    headers, compiler = os.environ.get(HEADERS), shutil.which("g++")
    library = Path(importlib.util.find_spec("ai_edge_litert").submodule_search_locations[0])
    if headers is None or compiler is None or not (library / "libLiteRt.so").exists():
        pytest.skip(f"needs g++, libLiteRt.so in ai_edge_litert, and in {HEADERS} the folder that holds LiteRT's folder litert")
    (folder / "classify.cpp").write_text(code("cpp"))
    (folder / "litert" / "build_common").mkdir(parents=True)
    (folder / "litert" / "build_common" / "build_config.h").touch()
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", headers, "-I", folder, "-L", library, f"-Wl,-rpath,{library}"]
    subprocess.run([compiler, *options, folder / "classify.cpp", "-lLiteRt", "-o", folder / "classify"], check=True)
    done = subprocess.run([folder / "classify", folder / "model.tflite"], check=True, capture_output=True, text=True)
    np.testing.assert_allclose([float(line) for line in done.stdout.split()], expected(folder, image), rtol=1e-4, atol=1e-6)


def test_the_page_names_the_version_of_litert_js_that_is_tested():
    assert set(re.findall(r"@litertjs/core(?:@|` )(\d+\.\d+\.\d+)", PAGE)) == {browser_packages.litert_version()}
    assert f"LiteRT.js {browser_packages.litert_version()} has no tensors of int8" in PAGE
