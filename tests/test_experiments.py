"""The paper's experiments run, stop and go on; their data are read from every format. Briefly, on what needs no download."""

import json
import sys
from pathlib import Path

import experiments
import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

import matrices  # noqa: E402
import search  # noqa: E402


@pytest.fixture
def run(tmp_path):
    """A function that runs an experiment in a folder: its exit code, what it printed, and its results."""

    def with_arguments(name, *arguments):
        code, output = experiments.run(experiments.load(name), tmp_path / name, *arguments)
        path = tmp_path / name / "results.json"
        return code, output, json.loads(path.read_text()) if path.exists() else None

    return with_arguments


@pytest.mark.parametrize(
    ("accuracies", "margin", "best", "tried"),
    [
        ((1, 2, 3, 2, 9), 0.0, 2, {1, 2, 3}),
        ((5, 4, 3, 2, 9), 0.0, 0, {0, 1, 2}),
        ((1, 2, 3, 2.5, 9), 1.0, 4, {1, 2, 3, 4}),
        ((1, 2, 3, 2.5, 1), 1.0, 2, {1, 2, 3, 4}),
        ((3.5, 3, 2, 1, 1), 1.0, 0, {0, 1, 2}),
    ],
)
def test_the_search_for_the_best_rate_ends_where_it_becomes_worse(accuracies, margin, best, tried):
    seen = set()
    assert search.climb((0, 1, 2, 3, 4), 1, lambda value: seen.add(value) or accuracies[value], margin) == best
    assert seen == tried


def test_autoencoder(run, tmp_path):
    arguments = ("--matrix", "band", "--k", "2", "--steps", "100")
    code, output, results = run("autoencoder", *arguments)
    assert code == 0, output
    entry, facts = results["band"]["2"]["0"], results["band"]["matrix"]
    X = matrices.load("band").X
    best = np.sum(np.linalg.svd(X, compute_uv=False)[2:] ** 2)
    assert (facts["n"], facts["d"], facts["squared norm"]) == (64, 64, pytest.approx(np.sum(X**2)))
    assert entry["baselines"]["PCA"] == pytest.approx(best, rel=1e-6)
    assert best < entry["baselines"]["FJLT + PCA"]
    assert best < entry["baselines"]["Gaussian + PCA"] < entry["baselines"]["Gaussian"]
    trained = entry["two-phase"]
    assert best * (1 - 1e-6) < trained["solved again"] <= trained["loss"] * (1 + 1e-6)
    assert trained["loss"] < entry["baselines"]["FJLT + PCA"]
    assert entry["two-phase, Adam"]["curve"][-1] < entry["two-phase, Adam"]["curve"][0]
    for plot in ("losses.png", "phases.png"):
        assert (tmp_path / "autoencoder" / plot).read_bytes()[:4] == b"\x89PNG"
    assert run("autoencoder", *arguments)[2] == results  # nothing is trained again
    code, output, _ = run("autoencoder", "--matrix", "band", "--steps", "50")
    assert code == 2
    assert "holds results of other settings" in output


@pytest.mark.parametrize("curve", [False, pytest.param(True, marks=pytest.mark.long)], ids=["pair", "pair and curve"])
def test_sketching(curve, run, tmp_path):
    """See that sketches learn. The curve over the non-zeros of a column belongs to the pair 10, 20, and takes longer."""
    more = ("--pair", "10", "20") if curve else ()
    arguments = ("--stack", "patches", "--pair", "2", "4", *more, "--steps", "40", "--seeds", "2" if curve else "1")
    code, output, results = run("sketching", *arguments)
    assert code == 0, output
    pair = results["patches"]["2, 4"]
    assert set(pair["butterfly"]) == ({"0", "1"} if curve else {"0"})
    for norm in ("squared", "unsquared"):
        for seed in pair["butterfly"]:
            assert 0 < pair["butterfly"][seed][norm] < pair["FJLT"][seed][norm]
            assert pair["learned sparse"][seed][norm] < pair["sparse"][seed][norm]
            assert 0 <= pair["randomized SVD, default"][seed][norm] < pair["Gaussian"][seed][norm]
    assert pair["learned sparse"]["0"]["parameters"] == 32
    assert list(results["patches"].get("curve", ())) == (["1", "2", "5", "10", "20"] if curve else [])
    assert (tmp_path / "sketching" / "errors.png").read_bytes()[:4] == b"\x89PNG"
    assert run("sketching", *arguments)[2] == results
    assert run("sketching", "--pair", "5", "4")[0] == 2


@pytest.mark.parametrize("name", ["gaussian1", "gaussian2", "digits", "spectra", "band"])
def test_matrices_that_need_no_download(name):
    X = matrices.load(name).X
    rank = {"gaussian1": 32, "gaussian2": 64}.get(name)
    assert np.isfinite(X).all()
    assert rank is None or (np.linalg.matrix_rank(X) == rank and X.std() == pytest.approx(0.1 * (rank / 1024) ** 0.5, rel=0.05))


@pytest.mark.parametrize("name", ["bands", "patches"])
def test_stacks_that_need_no_download(name):
    stack = matrices.load_stack(name, seed=3, most=40)
    assert (len(stack.matrices), stack.training) == (40, 32)
    np.testing.assert_allclose(np.linalg.norm(stack.matrices, 2, axis=(1, 2)), 10, rtol=1e-5)


def test_cubes_of_hs_sod(tmp_path):
    """Written here as MATLAB 7.3 and 5 store an image of 12 rows, 16 columns and 5 bands."""
    import h5py
    from scipy.io import savemat

    cube = np.random.default_rng(0).random((5, 16, 12))
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["hypercube"] = cube
    savemat(tmp_path / "old.mat", {"hypercube": np.moveaxis(cube, 0, -1)})
    for name in ("new.mat", "old.mat"):
        np.testing.assert_array_equal(matrices.cube(tmp_path / name), cube)
    assert matrices.load("band", tmp_path).X.shape == (16, 12)
    assert matrices.load("spectra", tmp_path).X.shape == (5, 192)
    assert matrices.load_stack("bands", tmp_path).matrices.shape == (10, 16, 12)
    savemat(tmp_path / "other.mat", {"image": cube})
    with pytest.raises(ValueError, match="Expected a hyperspectral cube"):
        matrices.cube(tmp_path / "other.mat")


def test_techtc(tmp_path):
    """Two collections of three and four documents in TechTC-300's format."""
    for index, lines in enumerate((["+1 1:2 4:1", "-1 2:3", "+1 6:1"], ["-1 3:1", "+1 1:1 2:5", "-1 5:2", "+1 6:7"])):
        folder = tmp_path / "techtc" / f"Exp_{index}_1092"
        folder.mkdir(parents=True)
        (folder / "vectors.dat").write_text("# collection\n" + "\n".join(lines) + "\n")
    counts, origin = matrices.text(tmp_path)
    assert counts.shape == (2, 6, 3)
    np.testing.assert_array_equal(counts[0].T, [[2, 0, 0, 1, 0, 0], [0, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(counts[1].T[1], [1, 5, 0, 0, 0, 0])
    assert "2 collections of TechTC" in origin


def test_data_that_are_not_there(tmp_path):
    for name in ("mnist", "olivetti", "band"):
        with pytest.raises(ValueError, match="Expected the file"):
            matrices.load(name, tmp_path)
    with pytest.raises(ValueError, match="There are none"):
        matrices.load_stack("bands", tmp_path)
    for load in (matrices.load, matrices.load_stack):
        with pytest.raises(ValueError, match="Expected one of"):
            load("faces")
