"""How weights are quantised, as far as the names and shapes of their tensors do not tell."""

from dataclasses import dataclass

from service.models.quantisation.module_targets import most_specific

NOTHING = r"(?!)"  # a regular expression that no name matches
CACHE_SCALES = r".*\.([kv]_(scale|zero_point)|[kv]_proj\.output_(scale|zero_point))"


@dataclass(frozen=True)
class Scheme:
    """How the weights of a group of modules are stored."""

    layout: str  # row of `service.sources.quantised_layouts.LAYOUTS`
    bits: int = 8
    kind: str = "int"  # of the values: `int`, `float`, `nf4`, `fp4`
    symmetric: bool = True  # whether zero is the value 0, so that there are no zero points
    strategy: str = ""  # what has a scale of its own: `tensor`, `channel`, `group`, `block`
    group_size: int | None = None
    block: tuple[int, int] | None = None
    zeros_less_one: bool = False  # whether zero points are stored less one
    targets: tuple[str, ...] = ()  # names of modules, regular expressions for them (`re:`), and names of classes


@dataclass(frozen=True)
class Quantisation:
    """How the weights of a checkpoint are quantised."""

    name: str  # as reports call it
    schemes: tuple[Scheme, ...]
    while_running: str = NOTHING  # regular expression: tensors that no weight needs, for activations or the cache

    def scheme_of(self, module: str) -> Scheme | None:
        """The scheme of a module that is stored quantised."""
        if len(self.schemes) == 1:
            return self.schemes[0]
        targets = {target: scheme for scheme in self.schemes for target in scheme.targets}
        return targets.get(most_specific(targets, module))
