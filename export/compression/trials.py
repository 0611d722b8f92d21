"""The trials of single layers: what each costs as each structure, and how much the outputs suffer."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_butterfly.compression.dense_map import MAX_WEIGHT_RATIO

from .blueprint import Blueprint
from .costs import Cost
from .families import Tried
from .harm import STEPS, try_layer
from .imitation import Lesson
from .replaceable import Replaceable
from .structured import STRUCTURED_PART
from .structures import DENSE, Structure, structures_of
from .task import Task, trial_name

# At most so many structures are tried over all layers.
MOST_STRUCTURES = 64
# A layer that costs less than this part of the model in seconds and in bytes stays as it is.
MIN_PART = 0.01
# A structure is of use if it costs at most this part of the dense layer.
MAX_COST_RATIO = 0.9
# Examples on which harm is measured.
JUDGED = 2048
# The parts of the time limit after which two stages before the final trainings end: the costs of layers, and the trials.
COSTS_PART, TRIALS_PART = 0.25, 0.5
# What an export and a measurement take, in training steps.
EXPORT_WORK = 100


@dataclass(frozen=True)
class LayerTrials:
    """The trials of the layers of a model.

    Attributes:
        task: the search that they are a part of.
        layers: the layers.
        original: what the model costs.
        empty: what any file and any invocation cost, which is a part of every measurement.
    """

    task: Task
    layers: Sequence[Replaceable]
    original: Cost
    empty: Cost

    @property
    def work(self) -> float:
        """The expected work, in training steps."""
        kinds = len({layer.key for layer in self.layers})
        return self._quota * (kinds * EXPORT_WORK + len(self.layers) * STEPS)

    def run(self, structures: Mapping[str, Sequence[Structure]]) -> tuple[dict[str, list[Tried]], Cost]:
        """Return by path what each layer may be, and the cost of all the model but these layers.

        If the time limit leaves no time for a layer, the layer is one of those that stay as they are.

        Args:
            structures: by path the structures that are worth a trial.
        """
        layers = [layer for layer in self.layers if layer.path in structures]
        rest = self._rest(layers, structures)
        tried = {layer.path: [Tried(DENSE, self._cost_in_model(layer, DENSE), 0.0)] for layer in layers}
        taught, judged = self._lessons()
        # Structure after structure, not layer after layer, so that a time limit leaves something for each layer.
        rounds = range(max(map(len, structures.values()), default=0))
        todo = [(each, structures[each.path][i]) for i in rounds for each in layers if i < len(structures[each.path])]
        self.task.clock.skip((self._quota * len(self.layers) - len(todo)) * STEPS)
        for number, (layer, structure) in enumerate(todo):
            known = self.task.memory.known("harms", trial_name(layer.path, structure))
            some = any(len(each) > 1 for each in tried.values())
            if some and not known and self.task.clock.is_over(TRIALS_PART):
                self.task.clock.skip(STEPS)
                continue
            self.task.clock.show(f"try a layer, {number + 1} of {len(todo)}: {layer.path} as {structure.name}")
            harm = self._harm(layer, structure, taught, judged)
            if math.isfinite(harm):
                tried[layer.path].append(Tried(structure, self._cost_in_model(layer, structure), harm))
            (self.task.clock.skip if known else self.task.clock.finish)(STEPS)
        return tried, rest

    @property
    def _quota(self) -> int:
        """The number of structures that are tried for each layer."""
        return max(2, MOST_STRUCTURES // max(1, len(self.layers)))

    def _lessons(self) -> tuple[Lesson, Lesson]:
        """Return the examples that new layers learn from, and those on which their harm is measured.

        They are drawn at random. If there are fewer than five examples, both are all of them.
        """
        lesson, training = self.task.lesson, self.task.training
        order = np.random.default_rng(training.seed).permutation(len(lesson))
        count = min(JUDGED, len(order) // 5)
        return lesson.part(order[count:][: STEPS * training.batch_size]), lesson.part(order[:count] if count else order)

    def structures(self) -> dict[str, list[Structure]]:
        """Measure what each layer costs alone, and return by path the structures that are worth a trial.

        Each kind of layers has the same part of the time. Kinds for which none is left are left out.
        """
        by_key: dict[str, list[Replaceable]] = {}
        for layer in self.layers:
            by_key.setdefault(layer.key, []).append(layer)
        kept: dict[str, list[Structure]] = {}
        for number, (key, alike) in enumerate(by_key.items()):
            known = self.task.memory.known(self.task.kind_of_costs, key)
            part = STRUCTURED_PART + (COSTS_PART - STRUCTURED_PART) * (number + 1) / len(by_key)
            if any(kept.values()) and not known and self.task.is_over(part, STRUCTURED_PART):
                self.task.clock.skip(self._quota * EXPORT_WORK)
                continue
            where = f"{number + 1} of {len(by_key)}: {alike[0].path}, {self.task.exporter.precision}"
            self.task.clock.show(f"measure a layer, {where}")
            costs = self._costs_alone(alike[0], part)
            choices = [structure for structure in structures_of(alike[0].dense) if self._is_of_use(structure, costs)]
            kept |= {layer.path: choices for layer in alike}
            (self.task.clock.skip if known else self.task.clock.finish)(self._quota * EXPORT_WORK)
        return kept

    def _costs_alone(self, layer: Replaceable, part: float = COSTS_PART) -> dict[str, Cost]:
        """Return the costs of a model of one layer alone by the names of the structures, "dense" among them.

        After `part` of the time limit no more than one structure is exported.
        """

        def is_over() -> bool:
            return self.task.is_over(part, STRUCTURED_PART)

        measured = self.task.memory.once(
            self.task.kind_of_costs, layer.key, lambda: self._measured_alone(layer, is_over), is_finished=lambda: not is_over()
        )
        return {name: Cost(*cost) for name, cost in measured.items()}

    def _measured_alone(self, layer: Replaceable, is_over: Callable[[], bool]) -> dict[str, Cost]:
        exporter, rows = self.task.exporter, layer.shapes[0][0]
        dense_model = layer.alone(DENSE)
        try:
            exports = {DENSE.name: exporter.export_layer(dense_model, layer.inputs, rows)}
        except ValueError:  # the file would be off, so the layer stays as it is
            return {DENSE.name: self.empty}
        dense = exporter.measure(exports)[DENSE.name]
        seconds = len(layer.shapes) * dense.seconds
        if seconds < MIN_PART * self.original.seconds and dense.size_bytes < MIN_PART * self.original.size_bytes:
            return {DENSE.name: dense}
        for structure in structures_of(layer.dense)[: self._quota]:
            if len(exports) > 1 and is_over():
                break
            try:
                small = layer.alone(structure)
                if small.count_params() <= MAX_WEIGHT_RATIO * dense_model.count_params():
                    exports[structure.name] = exporter.export_layer(small, layer.inputs, rows)
            except ValueError:  # this layer cannot have this structure, or the file would be off
                continue
            self.task.memory.learn(exporter.wisdom)
        return exporter.measure(exports)

    def _is_of_use(self, structure: Structure, costs: Mapping[str, Cost]) -> bool:
        """Return whether a structure costs clearly less than the dense layer, in one of the costs that count."""
        if structure.name not in costs:
            return False
        pairs = zip(*(self.task.targets.costs(*costs[name]) for name in (structure.name, DENSE.name)), strict=True)
        return any(cost <= MAX_COST_RATIO * dense for cost, dense in pairs)

    def _rest(self, layers: Sequence[Replaceable], structures: Mapping[str, Sequence[Structure]]) -> Cost:
        """Return the cost of all the model but the layers.

        The model is measured with the cheapest structure of each layer, whose costs are then subtracted. They are small, and so
        is their error. The costs of large dense layers depend on what else is in the processor's caches.
        """
        cheapest = []
        for layer in layers:
            costs = {each: self._cost_in_model(layer, each) for each in (DENSE, *structures[layer.path])}
            cheapest.append((layer, min(costs, key=costs.__getitem__)))
        replaced = tuple((layer.path, each) for layer, each in cheapest if each != DENSE)

        def measured() -> Cost:
            try:
                blueprint = Blueprint(structures=replaced)
                new, _ = blueprint.build(self.task.model, self.task.lesson.x, {}, self.task.seed_of_trial)
                return self.task.exporter.measure({"new": self.task.export_untrained(new, "the cheapest layers")})["new"]
            except ValueError:  # with random weights the export is off
                return Cost(0.0, 0.0)

        name = json.dumps(["the cheapest layers", [[path, structure.name] for path, structure in replaced]])
        rest = Cost(*self.task.memory.once(self.task.kind_of_costs, name, measured)) if replaced else self.original
        for layer, structure in cheapest:
            rest = rest.minus(self._cost_in_model(layer, structure))
        return Cost(max(rest.seconds, self.empty.seconds), max(rest.size_bytes, self.empty.size_bytes))

    def _cost_in_model(self, layer: Replaceable, structure: Structure) -> Cost:
        """Return what a layer adds to the cost of the model, in all of its calls."""
        alone = self._costs_alone(layer)[structure.name].minus(self.empty)
        return Cost(len(layer.shapes) * alone.seconds, alone.size_bytes)

    def _harm(self, layer: Replaceable, structure: Structure, taught: Lesson, judged: Lesson) -> float:
        """Return the harm of a structure in the place of a layer. It is infinite if the training diverges."""
        name = trial_name(layer.path, structure)

        def tried() -> float:
            training = self.task.training
            seed = training.seeded(name)
            trial = try_layer(self.task.model, layer, structure, taught, judged, training.batch_size, seed)
            self.task.memory.keep_arrays("layer", name, trial.weights)
            return trial.harm

        return self.task.memory.once("harms", name, tried)
