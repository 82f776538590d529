"""An encoder of which only the upper layers are trained.

The lower layers and all that comes before them are frozen: they take no gradient, and no dropout. What comes after the
last layer, such as a final norm, is trained with the upper layers. For a text encoder the two parts can also run by
themselves, so that the states that enter the upper layers may come from a cache (`modalities.text.states`).

    states (B, S, H)   the output of the last frozen layer, which the first trained layer reads
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from raysearch.models.layers import layer_list

EVERYTHING = -1  # the value of `trained_layers` under which nothing is frozen
EMBEDDINGS = "embeddings"  # the name of the part of a text encoder that makes states of tokens
PROJECTION = "embeddings_project"  # an architecture may have a further one, from the embeddings' size to the layers'


class _StatesReached(Exception):  # noqa: N818 - no error: it ends a forward of which only the lower part is needed
    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class _States(nn.Module):
    """A replacement for the embeddings that returns states computed before."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """Returns the states and ignores all arguments."""
        return self.states


class FrozenLayers:
    """The lower part of a body, frozen, and the upper part, whose parameters are trained."""

    def __init__(self, body: nn.Module, trained: int, probe: Callable[[], object]) -> None:
        """Freezes all but the `trained` upper layers; `probe` runs the body once, which shows what comes before them.

        Raises ValueError for a body without a list of layers, or with fewer than `trained`.
        """
        self.body = body
        self.parent, self.name, layers = layer_list(body, "trained_layers")
        if trained > len(layers):
            raise ValueError(f"trained_layers {trained}: the encoder has {len(layers)} layers")
        self.count = len(layers) - trained  # of the frozen layers
        self.lower, self.upper = list(layers)[: self.count], list(layers)[self.count :]
        self.is_whole = not trained  # nothing of the body is trained
        frozen = {module for layer in self.lower for module in layer.modules()}
        frozen |= set(body.modules()) if self.is_whole else self._modules_before(probe)
        above = {module for layer in self.upper for module in layer.modules()}
        self.modules = [module for module in body.modules() if module in frozen and module not in above]
        for module in self.modules:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self.hold_still()

    def hold_still(self) -> None:
        """Switches the frozen part to evaluation: no dropout, and fixed statistics."""
        for module in self.modules:
            module.training = False

    def states(self, run: Callable[[], Any]) -> Tensor:
        """Returns the states of a batch; `run` calls the body, and returns its last layer."""
        if self.is_whole:
            states: Tensor = run()
            return states
        with self._stopping_at(self.upper[0]):
            try:
                run()
            except _StatesReached as reached:
                return reached.states
        raise ValueError(f"{type(self.body).__name__}: its layers cannot be run by themselves")

    @contextmanager
    def starting_from(self, states: Tensor) -> Iterator[None]:
        """Makes the body's forward begin with `states` at its first trained layer."""
        body, parent = self.body._modules, self.parent._modules
        replaced: list[tuple[dict[str, Any], str, Any]] = [
            (body, EMBEDDINGS, _States(states)),
            (parent, self.name, nn.ModuleList(self.upper)),
        ]
        if PROJECTION in body:
            replaced.append((body, PROJECTION, nn.Identity()))
        before = [(modules, name, modules[name]) for modules, name, _ in replaced]
        for modules, name, module in replaced:
            modules[name] = module
        try:
            yield
        finally:
            for modules, name, module in before:
                modules[name] = module

    @property
    def can_run_apart(self) -> bool:
        """Whether the body has the parts that `starting_from` replaces."""
        return EMBEDDINGS in self.body._modules

    def _modules_before(self, probe: Callable[[], object]) -> set[nn.Module]:
        """Returns the modules that a forward enters before the first trained layer."""
        entered: set[nn.Module] = set()
        hooks = [module.register_forward_pre_hook(lambda m, _: entered.add(m)) for module in self.body.modules()]
        try:
            with self._stopping_at(self.upper[0]):
                probe()
        except _StatesReached:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return entered

    @contextmanager
    def _stopping_at(self, layer: nn.Module) -> Iterator[None]:
        """Makes a forward end when it reaches a layer, by raising _StatesReached."""

        def stop(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            raise _StatesReached(inputs[0] if inputs else named["hidden_states"])

        hook = layer.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def trained_layers(body: nn.Module, frozen: FrozenLayers | None) -> list[nn.Module]:
    """Returns the layers of a body that are trained."""
    return list(layer_list(body, "trained_layers")[2]) if frozen is None else frozen.upper
