"""What the models of a search cost in one precision, and which of them are worth training."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..model import TFLiteModel
from .costs import Cost
from .families import Entry, Tried, of_blueprints, of_structures, of_widths
from .narrower import FACTORS, ByFactor, cost_of_nothing, costs_by_factor
from .places import Places
from .structured import KINDS, Networks, structured_networks
from .structures import BUTTERFLY, LOW_RANK, Structure
from .task import Task
from .trials import EXPORT_WORK, LayerTrials

# The families of models that replace layers, by the structures that they may use.
ALLOWED = ((BUTTERFLY, LOW_RANK), (BUTTERFLY,), (LOW_RANK,))


@dataclass
class Survey:
    """The costs of models in one precision. Each stage of the search asks for one more of its measurements.

    Attributes:
        task: the search in this precision.
        original: the exported original.
        places: the layers that may be changed.
        narrower: how narrower networks are made, by name.
        by_factor: of each of these, what networks cost, by the factor on their widths.
        structured: narrower networks with butterflies or with low-rank layers, by the family of these layers.
        structures: the structures that are worth a trial, by the paths of layers.
        tried: what each layer may be, by its path, and the cost of all the model but these layers.
    """

    task: Task
    original: TFLiteModel
    places: Places
    narrower: Mapping[str, ByFactor]
    by_factor: dict[str, dict[float, Cost]] = field(default_factory=dict)
    structured: dict[str, Networks] = field(default_factory=dict)
    structures: dict[str, list[Structure]] = field(default_factory=dict)
    tried: tuple[dict[str, list[Tried]], Cost] = ({}, Cost(0.0, 0.0))

    @property
    def cost_of_original(self) -> Cost:
        """What the original costs. `measure_widths` measures it."""
        return next(iter(self.by_factor.values()))[1.0]

    def measure_widths(self) -> None:
        """Measure what the network costs with narrower layers, for each of `narrower` and some factors."""
        work = (1 + len(FACTORS)) * EXPORT_WORK
        self.task.clock.expect(len(self.narrower) * work)
        for name, blueprint_at in self.narrower.items():
            self.by_factor[name] = costs_by_factor(self.task, blueprint_at, self.original, name)
            self.task.clock.finish(work)

    def measure_structured(self, family: str) -> None:
        """Measure what narrower networks cost whose hidden layers are of one family, a key of `KINDS`."""
        kind, replaceable = KINDS[family], {layer.path for layer in self.places.layers}
        work = len(kind.factors) * len(kind.choices) * EXPORT_WORK
        self.task.clock.expect(work)
        self.structured[family] = structured_networks(self.task, kind, self.places.widths, replaceable)
        self.task.clock.finish(work)

    def measure_layers(self) -> None:
        """Measure what each layer costs alone as each structure, and keep the structures that are worth a trial."""
        self.task.clock.expect(self._trials.work)
        self.structures = self._trials.structures()

    def try_layers(self) -> None:
        """Try in each layer the structures that are worth it. What was tried in another precision is known."""
        self.tried = self._trials.run(self.structures)

    def families(self) -> list[list[Entry]]:
        """Return the models that may be trained, in families. All surveys of a search have the same ones."""
        targets = self.task.targets
        of_all, *of_one = (of_structures(*self.tried, targets, allowed) for allowed in ALLOWED)
        of_narrower = [of_widths(self.narrower[name], costs, targets) for name, costs in self.by_factor.items()]
        of_structured = [of_blueprints(*networks, targets) for networks in self.structured.values()]
        families = [of_all, *of_narrower, *of_structured, *of_one]
        return [[entry._replace(precision=self.task.exporter.precision) for entry in family] for family in families]

    @property
    def _trials(self) -> LayerTrials:
        return LayerTrials(self.task, self.places.layers, self.cost_of_original, cost_of_nothing(self.task))
