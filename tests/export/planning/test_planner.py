"""The planner: what is measured, what is chosen by which objective, what wisdom saves, what data and precision do to it."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

import keras_butterfly.export.convert as converting
from keras_butterfly import Butterfly, ButterflyDense, export
from keras_butterfly.export.lowering import KINDS, Dense, Fused, Gather, Grouping
from keras_butterfly.export.planning import planner as planning
from keras_butterfly.export.planning.candidates import Limits, lowerings
from keras_butterfly.export.planning.cost import estimate, estimated_bytes, work
from keras_butterfly.export.planning.plan import LayerPlan
from keras_butterfly.export.planning.wisdom import Candidate, Measurement, WisdomKey
from keras_butterfly.export.tflite import runtime
from keras_butterfly.export.tflite.graph import schema
from keras_butterfly.export.tflite.operators import operator_name, tensor_names
from keras_butterfly.export.tflite.quantize import dense_error

measured = pytest.mark.usefixtures("measured")
two_candidates = pytest.mark.usefixtures("two_lowerings")


def model(n=128, count=1):
    layers = [Butterfly(activation="relu", seed=seed, name=f"hidden_{seed}") for seed in range(count)]
    return keras.Sequential([keras.Input((n,), name="x"), *layers, keras.layers.Dense(3)])


def data(n=128):
    return np.random.default_rng(1).standard_normal((100, n)).astype("float32")


class Clock:
    """A device that answers from a table instead of a clock, and counts how often it is asked."""

    name, runtime, machine = "clock", "table 1", "paper"

    def __init__(self, seconds):
        self.seconds, self.asked = seconds, []

    def measure(self, models, *, threads, warmup, runs, on_round):
        if "quantized" not in models:  # the comparison of a whole file with one in float32
            self.asked.append(list(models))
        on_round(runs)
        return {name: export.Latency((self.seconds(name),), 1, warmup, threads, self.runtime, self.machine) for name in models}


def matmul_is_fast(name):
    return 1.0 if "matmul" in name else 2.0


@pytest.fixture(scope="module")
def clocked():
    """A device that has measured the lowerings of one layer, the export, and the wisdom of it, which tests do not change."""
    keras.utils.set_random_seed(0)
    clock, known = Clock(matmul_is_fast), export.Wisdom()
    return clock, export.to_tflite(model(), effort="quick", device=clock, wisdom=known), known


def test_the_fastest_by_the_device_is_taken(clocked):
    clock, exported, _ = clocked
    (plan,) = exported.plan
    (grouping,) = plan.lowering.groupings
    assert "matmul" in grouping.operators
    assert plan.source == "measured"
    assert exported.operators.count("BATCH_MATMUL") == grouping.operators.count("matmul")
    assert {str(candidate.lowering) for candidate in plan.candidates} == set(clock.asked[0])
    assert all(candidate.measured.error < 1e-5 for candidate in plan.candidates)


class Counter(Clock):
    """A device that answers with counts from a table."""

    name, unit = "counter", "counts"

    def measure(self, models, *, threads, warmup, runs, on_round):
        self.asked.append(list(models))
        counts = {name: round(1e6 * self.seconds(name)) for name in models}
        return {
            name: export.Counts(count, 0, "a core", self.runtime, self.machine, self.name) for name, count in counts.items()
        }


@measured
def test_a_device_that_counts_is_planned_for_by_counts(tmp_path):
    # All differ by less than 5 %, within which seconds count as equal.
    counter, known = Counter(lambda name: 1 + sum(map(ord, name)) % 97 / 2000), export.Wisdom()
    exported = export.to_tflite(model(), device=counter, wisdom=known)
    (plan,) = exported.plan
    best = min(plan.candidates, key=lambda candidate: candidate.measured.cost)
    # Counts have no noise, so a smaller file that costs a little more is not taken.
    assert plan.lowering == best.lowering
    # Dense is counted however slow it is estimated to be, so that the gain is in one unit.
    assert "dense" in counter.asked[0] and exported.gain.unit == "counts"
    assert "counts" in str(exported.explain()) and "measured on counter" in str(exported.explain())
    again = export.to_tflite(model(), device=counter, wisdom=export.Wisdom.load(known.save(tmp_path / "wisdom.json")))
    assert len(counter.asked) == 1 and again.plan[0].source == "wisdom"
    assert {candidate.measured.unit for candidate in again.plan[0].candidates} == {"counts"}
    assert "wisdom of counter" in str(again.explain())


@measured
@two_candidates
def test_what_is_not_exact_enough_is_not_taken():
    """Dynamic-range rounding is off by about a hundredth; with a tolerance of 1e-9 the most exact one is left, and refused."""
    with pytest.raises(export.ParityError, match="disagrees with Keras"):
        export.to_tflite(model(), quantize="dynamic", tolerance=1e-9, device=Clock(matmul_is_fast), wisdom=export.Wisdom())


def test_an_estimate_measures_nothing_and_says_so():
    clock, known = Clock(matmul_is_fast), export.Wisdom()
    (plan,) = export.to_tflite(model(), effort="estimate", device=clock, wisdom=known).plan
    assert not clock.asked
    assert not len(known)
    assert plan.source == "estimated"
    assert {candidate.measured for candidate in plan.candidates} == {None}
    assert plan.error < 1e-5
    assert plan.pareto_candidates == ()


@measured
@two_candidates
def test_equal_layers_are_measured_once_and_wisdom_outlives_the_process(tmp_path):
    clock, known = Clock(matmul_is_fast), export.Wisdom()
    first = export.to_tflite(model(count=2), device=clock, wisdom=known)
    assert len(clock.asked) == len(known) == 1
    assert [plan.source for plan in first.plan] == ["measured", "wisdom"]
    loaded = export.Wisdom.load(known.save(tmp_path / "wisdom.json"))
    again = export.to_tflite(model(count=2), device=clock, wisdom=loaded)
    assert len(clock.asked) == 1
    assert [plan.lowering for plan in again.plan] == [plan.lowering for plan in first.plan]
    assert {plan.source for plan in again.plan} == {"wisdom"}
    assert all(plan.error < 1e-5 for plan in again.plan)


def test_effort_says_how_much_is_measured(monkeypatch):
    monkeypatch.setattr(planning, "QUICK", Limits(2, 0, 0))
    monkeypatch.setattr(planning, "THOROUGH", Limits(6, 1, 1))
    counts, known = {}, export.Wisdom()
    for effort in ("quick", "measure", "estimate"):
        (plan,) = export.to_tflite(model(), effort=effort, device=Clock(matmul_is_fast), wisdom=known).plan
        counts[effort] = len(plan.candidates) if plan.source == "measured" else 0
        monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", effort)
        default = export.to_tflite(model(), device=Clock(matmul_is_fast), wisdom=known)
        assert len(default.plan[0].candidates) == len(plan.candidates)
        assert default.plan[0].source == ("estimated" if effort == "estimate" else "wisdom")
    # What a quick export has measured is not enough for a thorough one, so each measures anew.
    assert counts["measure"] > counts["quick"] > counts["estimate"] == 0
    monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", "hard")
    with pytest.raises(ValueError, match=r"`effort` must be one of .*'hard'"):
        export.to_tflite(model())


@measured
@two_candidates
def test_wisdom_holds_for_one_shape_precision_and_machine():
    clock, known = Clock(matmul_is_fast), export.Wisdom()
    for settings in ({}, {"batch_size": 2}, {"quantize": "float16"}):
        export.to_tflite(model(8), device=clock, wisdom=known, **settings)
    other = Clock(matmul_is_fast)
    other.machine = "slate"
    export.to_tflite(model(8), device=other, wisdom=known)
    assert len(clock.asked) == 3
    assert len(other.asked) == 1
    assert len(known) == 4
    assert known.forget(machine="slate") == 1
    assert known.forget(precision="float16", device="clock") == 1
    assert known.forget() == 2
    assert len(known) == 0


def test_merging_keeps_both_and_prefers_the_newer():
    def wisdom(seconds, *shapes):
        known = export.Wisdom()
        for shape in shapes:
            key = WisdomKey("Butterfly", shape, "float32", "latency", "measure", "host", "m", "r")
            known.learn(key, (Candidate(Dense(), 1.0, 10, Measurement(seconds, 10, 0.0)),))
        return known

    older, newer = wisdom(1.0, (1, 8), (1, 16)), wisdom(2.0, (1, 16), (1, 32))
    older.merge(newer)
    assert {key.input_shape: older.recall(key)[0].measured.cost for key in older} == {
        (1, 8): 1.0,
        (1, 16): 2.0,
        (1, 32): 2.0,
    }


def test_a_foreign_or_damaged_file_is_refused(clocked, tmp_path):
    _, _, known = clocked
    path = known.save(tmp_path / "wisdom.json")
    whole = path.read_text()
    content = json.loads(whole)

    def entry(**changes):
        return json.dumps({**content, "entries": [{**content["entries"][0], **changes}]})

    candidate = content["entries"][0]["candidates"][0]
    damaged = {
        whole[: len(whole) // 2]: "is none or is damaged",
        "[]": "has None, version None",
        json.dumps({**content, "format": "fftw"}): "has 'fftw', version 3",
        json.dumps({**content, "version": 1}): "version 1. Delete it and measure again",
        json.dumps({**content, "entries": 3}): "is damaged",
        entry(key={"layer": "x"}): "is damaged",
        entry(candidates=[{**candidate, "measured": {**candidate["measured"], "cost": 0}}]): "no measurement",
        entry(candidates=[{**candidate, "lowering": {**candidate["lowering"], "kind": "magic"}}]): "no such lowering",
        entry(candidates=[{**candidate, "lowering": {**candidate["lowering"], "width": "magic"}}]): "no such lowering",
        entry(candidates=[{**candidate, "lowering": {**candidate["lowering"], "keep_float32": "magic"}}]): "no such lowering",
    }
    for text, message in damaged.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            export.Wisdom.load(path)
    with pytest.raises(ValueError, match="which is no file"):
        export.Wisdom.load(tmp_path / "nowhere.json")
    for wrong in (123, None, b"wisdom.json", [tmp_path]):
        with pytest.raises(ValueError, match=r"Expected a path, as a str or a pathlib.Path. Received: "):
            export.Wisdom.load(wrong)
    with pytest.raises(ValueError, match=r"Expected an export.Wisdom.* Received: str"):
        export.Wisdom().merge("wisdom.json")
    with pytest.raises(ValueError, match="exists"):
        known.save(path)
    with pytest.raises(ValueError, match=r"Expected facts among .* Received: \['cpu'\]"):
        known.forget(cpu="x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"effort": "best"}, r"`effort` must be one of \('measure', 'quick', 'estimate'\). Received: effort='best'"),
        ({"objective": "speed"}, "`objective` must be one of"),
        ({"lowering": "magic"}, "`lowering` must be one of"),
        ({"wisdom": {}}, "`wisdom` must be an export.Wisdom. Received: dict"),
        ({"device": "phone"}, "`device` must be one of"),
        ({"device": 3}, "`device` must be one of .* Received: device=3"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        export.to_tflite(model(), **settings)


@measured
def test_size_is_an_objective():
    """The smallest holds the effective weights and little else: radix 4 has as many as two stages."""
    layer = Butterfly(seed=0)
    net = keras.Sequential([keras.Input((1024,)), layer])
    small = export.to_tflite(net, objective="size", wisdom=export.Wisdom())
    assert 4 * layer.effective_parameters < small.size_bytes < 4.4 * layer.effective_parameters
    chosen = small.plan[0].lowering
    assert max((block for grouping in getattr(chosen, "groupings", ()) for block in grouping.blocks), default=2) <= 4
    sizes = {candidate.lowering: candidate.measured.size_bytes for candidate in small.plan[0].candidates}
    assert sizes[small.plan[0].lowering] == min(sizes.values())
    assert max(sizes.values()) > 1.5 * min(sizes.values())


def test_the_smallest_file_at_4096_is_a_hundred_and_fiftieth_of_dense():
    net = keras.Sequential([keras.Input((4096,)), Butterfly(seed=0)])
    small = export.to_tflite(net, objective="size", effort="estimate")
    assert small.size_bytes * 150 <= 4 * 4096**2


@pytest.mark.parametrize("n", [pytest.param(8, marks=pytest.mark.long), 128])
def test_a_small_layer_is_estimated_to_be_small_as_what_it_is(n):
    """An operator takes some hundred bytes: below n = 64 a dense kernel is the smallest."""
    net = keras.Sequential([keras.Input((n,)), Butterfly(seed=0)])
    sizes = {lowering: export.to_tflite(net, lowering=lowering).size_bytes for lowering in ("dense", "fused", "slice")}
    assert export.to_tflite(net, objective="size", effort="estimate").size_bytes <= 1.15 * min(sizes.values())


def test_every_unit_of_work_has_a_cost():
    """`estimate` looks each up; a unit that was not fitted would be an error."""
    for layer in (Butterfly(), Butterfly(40), ButterflyDense(64), ButterflyDense(64, k1=32, k2=32)):
        layer.build((None, 64))
        for lowering in [*lowerings(layer), Gather()]:
            for rows in (1, 5):
                for precision in (None, "float16", "dynamic", "int8"):
                    assert estimate(layer, lowering, rows, precision) > 0


def test_a_product_is_fused_in_many_ways():
    layer = ButterflyDense(256, k1=64, k2=64, seed=0)
    net = keras.Sequential([keras.Input((256,), name="x"), layer])
    considered = lowerings(layer)
    assert {"folded", "fused", "slice", "dense"} == {lowering.kind for lowering in considered}
    fused = [grouping for lowering in considered if isinstance(lowering, Fused) for grouping in lowering.groupings]
    assert len({grouping.blocks for grouping in fused}) > 5
    assert {"conv", "matmul", "sum"} <= {operator for grouping in fused for operator in grouping.operators}
    small = export.to_tflite(net, objective="size", effort="estimate")
    assert small.size_bytes < 2.2 * 4 * layer.count_params()


def test_the_front_is_what_nothing_beats():
    def candidate(name, seconds, size, error=0.0):
        return Candidate(KINDS[name](), 1.0, size, Measurement(seconds, size, error))

    considered = (
        candidate("dense", 1.0, 90),
        candidate("fused", 2.0, 30),
        candidate("folded", 3.0, 40),
        candidate("slice", 4.0, 10),
        candidate("gather", 0.5, 5, error=0.5),
    )
    plan = LayerPlan("x", (1, 8), Dense(), "measured", 0.0, 0.1, considered)
    assert [each.lowering.kind for each in plan.pareto_candidates] == ["dense", "fused", "slice"]


@pytest.mark.long
@measured
def test_a_front_of_whole_models():
    def fewer_factors_are_faster(name):
        return 1.0 + name.count(",")

    clock, known = Clock(fewer_factors_are_faster), export.Wisdom()
    settings = {"quantize": "float16", "device": clock, "wisdom": known}
    exports = export.pareto_front(model(256, count=2), most=4, **settings)
    assert 2 <= len(exports) <= 4
    sizes = [each.size_bytes for each in exports]
    assert sizes == sorted(sizes, reverse=True)
    times = [sum(c.measured.cost for p in each.plan for c in p.candidates if c.lowering == p.lowering) for each in exports]
    assert times == sorted(times)
    for each in exports:  # two layers of equal structure, each with the error of its own weights
        assert len({plan.error for plan in each.plan}) == 2
        assert all(0 < plan.error < 1e-3 for plan in each.plan)
    with pytest.raises(export.ParityError, match="disagrees with Keras"):
        export.pareto_front(model(256), tolerance=1e-9, most=1, **settings)
    with pytest.raises(ValueError, match="`most` must be a positive integer"):
        export.pareto_front(model(), most=0)


def test_a_given_lowering_beyond_the_tolerance_is_refused_by_layer():
    """Beside a skip path the error of one layer is a small part of the model's."""
    inputs = keras.Input((256,), name="x")
    hidden = Butterfly(radix=16, seed=0, name="off")(inputs)
    net = keras.Model(inputs, keras.layers.Add()([hidden, keras.layers.Rescaling(50.0)(inputs)]))
    settings = {"quantize": "int8", "representative_data": data(256), "lowering": "gather"}
    export.to_tflite(net, **settings)
    with pytest.raises(export.ParityError, match=r"Lowered to 'gather', layers are off .* more than 0.03 .*: 'off' 0.0"):
        export.to_tflite(net, tolerance=0.03, **settings)


@pytest.mark.long
@measured
def test_wisdom_that_other_weights_do_not_keep_is_measured_anew():
    """What an identity, which int8 holds exactly, was measured with, does not do for a random butterfly."""

    def int8_is_fast(name):
        return 2.0 if name.endswith("float32") or name == "dense" else 1.0

    def net(initializer):
        butterfly = Butterfly(kernel_initializer=initializer, seed=0)
        return keras.Sequential([keras.Input((512,), name="x"), butterfly, keras.layers.Dense(3)])

    clock, known = Clock(int8_is_fast), export.Wisdom()
    settings = {"quantize": "int8", "representative_data": data(512), "device": clock, "wisdom": known}
    (first,) = export.to_tflite(net("identity"), **settings).plan
    (second,) = export.to_tflite(net("orthogonal"), **settings).plan
    assert first.source == second.source == "measured"
    assert len(clock.asked) == 2
    assert first.within_limit
    assert second.error <= max(second.limit, min(c.measured.error for c in second.candidates))


@pytest.mark.long
@measured
def test_an_int8_butterfly_is_kept_in_float_where_int8_is_much_less_exact_than_a_dense(monkeypatch):
    """Rounding between factors adds to the error; a layer in float32 rounds only on the way in and out, as Dense does."""

    def seconds(name):
        return 5.0 if name == "dense" else 2.0 if name.endswith("float32") else 1.0

    def planned():
        settings = {"quantize": "int8", "representative_data": data(256)[:60], "wisdom": export.Wisdom()}
        (plan,) = export.to_tflite(net, device=Clock(seconds), **settings).plan
        return plan, {candidate.lowering: candidate.measured.error for candidate in plan.candidates}

    net = keras.Sequential([keras.Input((256,), name="x"), Butterfly(seed=0), keras.layers.Dense(3)])
    plan, errors = planned()
    assert plan.limit == pytest.approx(1.4 * dense_error([data(256)[:60]], 256))
    assert errors[plan.lowering] <= plan.limit
    in_float = max(error for lowering, error in errors.items() if lowering.keep_float32 == "weights")
    in_int8 = min(error for lowering, error in errors.items() if lowering.keep_float32 != "weights")
    assert in_float < in_int8
    monkeypatch.setattr(planning, "dense_error", lambda inputs, units: (in_float + in_int8) / 2 / 1.4)
    plan, _ = planned()
    assert plan.lowering.keep_float32 == "weights"


@measured
def test_a_dense_kernel_is_never_too_inexact(monkeypatch):
    """Nothing may be slower than Dense."""
    monkeypatch.setattr(planning, "QUICK", Limits(1, 1, 1))

    def dense_is_fast(name):
        return 1.0 if name == "dense" else 2.0

    net = keras.Sequential([keras.Input((128,), name="x"), Butterfly(seed=0), keras.layers.Dense(3)])
    settings = {"quantize": "int8", "representative_data": data(), "wisdom": export.Wisdom()}
    (plan,) = export.to_tflite(net, device=Clock(dense_is_fast), **settings).plan
    assert str(plan.lowering) == "dense"
    assert plan.error > 1.4 * dense_error([data()], 128)


@measured
@pytest.mark.parametrize("integer_io", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_layer_in_float32_inside_an_int8_model(integer_io, monkeypatch):
    """Its operators compute in float32, the layers around it in int8, and it is more exact than all int8."""
    monkeypatch.setattr(planning, "QUICK", Limits(1, 1, 1))

    def float32_is_fast(name):
        return 1.0 if name.endswith("in float32") else 2.0

    net = keras.Sequential(
        [
            keras.Input((64,), name="x"),
            keras.layers.Dense(128, activation="relu"),
            Butterfly(activation="relu", seed=0, name="exact"),
            keras.layers.Dense(10),
        ]
    )
    x = data(64)
    common = {"quantize": "int8", "representative_data": x, "integer_io": integer_io}
    mixed = export.to_tflite(net, device=Clock(float32_is_fast), wisdom=export.Wisdom(), **common)
    whole = export.to_tflite(net, lowering="fused", **common)
    assert mixed.plan[0].lowering.keep_float32 == "weights"
    types = tensor_types(mixed.content)
    assert {kind for name, kind in types.items() if "exact/" in name} == {"FLOAT32"}
    assert types["output_0"] == ("INT8" if integer_io else "FLOAT32")
    assert mixed.operators.count("FULLY_CONNECTED") == 2
    assert mixed.plan[0].error < whole.plan[0].error
    assert mixed.partitions == 1


def tensor_types(content):
    flat = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    names = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    (graph,) = flat.subgraphs
    computed = {
        index
        for op in graph.operators
        for index in op.outputs
        if "QUANTIZE" not in operator_name(flat.operatorCodes[op.opcodeIndex])
    }
    computed |= set(graph.outputs)
    return {graph.tensors[index].name.decode(): names[graph.tensors[index].type] for index in computed}


def test_dense_error_is_that_of_a_converted_dense():
    """Within a third: of other weights, and the converter rounds the result a little differently."""
    layer = keras.layers.Dense(96, use_bias=False)
    net = keras.Sequential([keras.Input((128,), name="x"), layer])
    settings = {"quantize": "int8", "representative_data": data(), "integer_io": True}
    measured = export.to_tflite(net, **settings).parity.relative_error
    assert dense_error([data()], 96) == pytest.approx(measured, rel=0.35)


def test_calibration_gives_each_input_its_own_values():
    """Equal shapes, ranges a thousand apart: with the inputs exchanged nothing of the small one would be left."""
    inputs = [keras.Input((16,), name=name) for name in ("b", "a", "c")]
    hidden = [keras.layers.Dense(4, name=f"dense_{tensor.name}")(tensor) for tensor in inputs]
    net = keras.Model(inputs, {tensor.name: h for tensor, h in zip(inputs, hidden, strict=True)})
    rng = np.random.default_rng(0)
    x = {
        "b": rng.uniform(-1, 1, (200, 16)),
        "a": 1e3 * rng.uniform(-1, 1, (200, 16)),
        "c": 1e-3 * rng.uniform(-1, 1, (200, 16)),
    }
    exported = export.to_tflite(net, quantize="int8", representative_data=x)
    assert {output.name for output in exported.parity.outputs} == {"a", "b", "c"}
    assert exported.parity.relative_error < 0.2  # held-out values beyond the calibrated range are clipped


@pytest.mark.parametrize("lowering", ["auto", pytest.param("gather", marks=pytest.mark.long)])
def test_every_layer_reports_its_error(lowering):
    net = keras.Sequential([keras.Input((128,), name="x"), Butterfly(seed=0), ButterflyDense(16, seed=0)])
    plans = export.to_tflite(net, quantize="int8", representative_data=data(), lowering=lowering).plan
    assert len(plans) == 2
    assert all(1e-3 < plan.error < 0.25 for plan in plans)


@pytest.mark.parametrize(
    "lowering", ["auto", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("gather", "fused", "folded"))]
)
def test_a_dynamic_batch(lowering):
    net = keras.Sequential([keras.Input((6, 16), name="x"), Butterfly(seed=0), ButterflyDense(8, seed=0)])
    exported = export.to_tflite(net, batch_size=None, lowering=lowering)
    assert exported.plan[0].input_shape == (None, 6, 16)
    for count in (1, 5, 17):
        x = np.random.default_rng(count).standard_normal((count, 6, 16)).astype("float32")
        np.testing.assert_allclose(exported.predict(x), net.predict(x, verbose=0), atol=1e-5)


def test_explain_returns_the_evidence_as_text(clocked):
    _, exported, _ = clocked
    printed = str(exported.explain())
    for part in ("float32, ", "1 XNNPACK partition", "BATCH_MATMUL", "against Keras, on 4 examples", "hidden_0 (1, 128)"):
        assert part in printed
    assert f"{exported.plan[0].lowering} <-" in printed
    assert "1,000,000.00" in printed  # the table's second, in microseconds


@pytest.mark.parametrize("name", ["_hidden", "-", "1>2"])
def test_any_name_of_a_layer(name):
    """Names that TensorFlow takes below another name, but not as the first."""
    net = keras.Sequential([keras.Input((64,)), Butterfly(name=name)])
    assert export.to_tflite(net, lowering="fused").parity.relative_error < 1e-5


def test_partitions_are_counted():
    """GATHER is what XNNPACK does not run."""
    assert export.to_tflite(model(), lowering="fused").partitions == 1
    papers = keras.Sequential([keras.Input((64,)), Butterfly(radix=2)])
    assert export.to_tflite(papers, lowering="gather").partitions > 5


def test_operators_are_named_after_the_layer_and_ends_after_the_signature():
    inner = keras.Sequential([keras.Input((64,)), Butterfly(name="dense_1", bias_initializer="ones")], name="block")
    inputs = keras.Input((64,), name="pixels")
    net = keras.Model(inputs, {"scores": ButterflyDense(8, name="last")(inner(inputs))})
    for lowering in ("fused", "slice"):
        exported = export.to_tflite(net, lowering=lowering)
        names = tensor_names(exported.content)
        part = "factor" if lowering == "fused" else "stage"
        for number in range(2):
            assert any(name.startswith(f"dense_1/butterfly/{part}_{number}/") for name in names)
        assert any(name.startswith("last/butterfly/j2_t/") for name in names)
        assert names[-1] == "scores"
        assert not any(";" in name for name in names)
        assert len(names) == len(set(names))
        interpreter = runtime.load(exported.content)
        assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["pixels"], "outputs": ["scores"]}}
        assert interpreter.get_input_details()[0]["name"] == "pixels"


@pytest.mark.parametrize(
    ("n", "radix", "lowering", "channels", "whole"),
    [
        (784, (28, 28), Fused((Grouping((28, 28), ("conv", "conv")),)), (28, 28, 28, 28), True),
        (1024, 2, Fused((Grouping((32, 32), ("conv", "conv")),)), (32, 32, 32, 32), True),
        (1024, 2, Fused((Grouping((512, 2), ("conv", "conv")),)), (512, 512, 2, 2), False),
        (784, 2, Fused((Grouping((32, 32), ("conv", "conv")),)), (32, 32, 25, 25), False),
        (784, 2, Fused((Grouping((32, 32), ("conv", "matmul")),)), (32, 32), True),
        (784, 2, Fused((Grouping((32, 32), ("matmul", "matmul")),)), (), None),
        (784, 2, Dense(), (), None),
    ],
    ids=str,
)
def test_gpu_delegates_want_multiples_of_four_channels_in_a_group(n, radix, lowering, channels, whole):
    layer = Butterfly(radix=radix)
    layer.build((None, n))
    assert tuple(lowering.grouped_channels(layer.parts())) == channels
    candidate = Candidate(lowering, 1.0, 1, grouped_channels=channels)
    assert candidate.gpu_groups is whole


@measured
def test_the_plan_shows_what_gpu_delegates_run_whole(clocked, tmp_path):
    clock, exported, known = clocked
    table = str(exported.explain())
    assert "GPU groups" in table and "whole" in table
    again = export.to_tflite(model(), device=clock, wisdom=export.Wisdom.load(known.save(tmp_path / "wisdom.json")))
    assert [c.gpu_groups for c in again.plan[0].candidates] == [c.gpu_groups for c in exported.plan[0].candidates]


def test_work_counts_what_the_lowering_does():
    layer = Butterfly(radix=2)
    layer.build((None, 1024))
    done = work(layer, Fused((Grouping((32, 32), ("conv", "conv")),)), 2)
    assert done["weights"] == 4 * 2 * 1024 * 32
    assert done["convs"] == 2
    assert done["conv blocks"] == 64
    assert done["conv multiplies"] == 2 * 2 * 1024 * 32
    assert done["moves"] == 2
    assert work(layer, Fused((Grouping((16, 8, 8), ("conv", "sum", "sum")),)), 1)["moves"] == 0
    assert estimated_bytes(layer, Dense(), "int8") == pytest.approx(1024 * 1024, rel=0.01)
    assert estimated_bytes(layer, Dense(keep_float32="weights"), "int8") == pytest.approx(4 * 1024 * 1024, rel=0.01)


def test_estimates_rank_what_is_far_apart():
    layer = Butterfly()
    layer.build((None, 4096))
    for precision in (None, "float16", "dynamic", "int8"):
        fused, dense = (estimate(layer, lowering, 1, precision) for lowering in (Fused(), Dense()))
        assert 0 < 5 * fused < dense


@measured
def test_an_export_that_disagrees_with_keras_takes_more_exact_lowerings(monkeypatch):
    def fast_in_int8(name):
        return 2.0 if "in float32" in name else 1.0

    plans, lowered = [], converting._Export.lowered

    def disagreeing_at_first(self, plan):
        plans.append(*plan.values())
        if len(plans) == 1:
            raise export.ParityError("off")
        return lowered(self, plan)

    monkeypatch.setattr(converting._Export, "lowered", disagreeing_at_first)
    exported = export.to_tflite(model(), quantize="dynamic", device=Clock(fast_in_int8), wisdom=export.Wisdom())
    assert [plan.lowering for plan in exported.plan] == [plans[1].lowering]
    assert plans[1].error <= plans[0].error / 2
    assert exported.plan[0].chosen.measured.cost == min(
        each.measured.cost for each in exported.plan[0].candidates if each.measured.error <= plans[0].error / 2
    )


@measured
def test_an_export_that_disagrees_however_exact_is_refused(monkeypatch):
    def disagreeing(self, plan):
        raise export.ParityError("off")

    monkeypatch.setattr(converting._Export, "lowered", disagreeing)
    with pytest.raises(export.ParityError, match="off"):
        export.to_tflite(model(16), quantize="dynamic", device=Clock(matmul_is_fast), wisdom=export.Wisdom())


def test_advice_is_worked_out_once_after_the_last_try(monkeypatch):
    files, advised = [], []

    def disagreeing(self, plan):
        files.append(b"file %d" % len(files))
        error = export.ParityError("off.")
        error.content = files[-1]
        raise error

    monkeypatch.setattr(converting._Export, "lowered", disagreeing)
    monkeypatch.setattr(converting._Export, "_advice", lambda self, content: advised.append(content) or "Take float32.")
    monkeypatch.setattr(LayerPlan, "more_exact", lambda plan: replace(plan, error=plan.error / 2))
    with pytest.raises(export.ParityError, match=r"^off\. Take float32\.$"):
        export.to_tflite(model(), quantize="int8", representative_data=data(), effort="estimate")
    assert len(files) == 1 + converting.MORE_EXACT
    assert advised == files[-1:]
