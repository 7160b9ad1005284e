"""Give memory and weights to what was built on the meta device, one unit at a time.

A network is described first, under ``torch.device("meta")``, which costs nothing, and filled then:
whoever shards it takes each unit away before the next one is there, and no process ever holds the
whole. What a module says of itself:

- ``reset_parameters()`` makes it a unit. It is filled whole, its children before itself, as their
  constructors did it, and handed on. Inside a unit, each module that can be reset is.
- ``reset_rest()`` is called once all children were filled and handed on: it fills what the module
  holds beside them, and copies from one of them to another.
- ``drawn = False``: what is below is filled by the ``reset_rest`` of a module above. It gets memory
  unit by unit, and no numbers.

Children are filled in the order in which they were assigned. Where that is also the order in which
they were built, the numbers are those that a plain construction draws from the same seed.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

Keep = Callable[[nn.Module], None]


def materialise(
    module: nn.Module,
    *,
    seed: int,
    keep: Keep | None = None,
    given: Mapping[str, Tensor] | None = None,
) -> None:
    """Fill what lies on the meta device, on the CPU; what has memory already stays as it is.

    All is a function of the seed, on every rank alike, and torch's global generator stays where it
    was. A tensor that two modules share is made once, for the first of them, and stays shared.

    Args:
        module: changed in place; its tensors are new objects.
        seed: of what is drawn.
        keep: is given each filled unit, and each module whose own tensors ``reset_rest`` has
            filled, and may move or shard what is new there.
        given: values for tensors, by their names in ``module``: they take the place of what was
            drawn before ``keep`` sees it. Each is looked up once, so it may be read from a file.

    Raises:
        TypeError: a module holds tensors that nothing fills.
        ValueError: a given tensor has another shape, or the module has none of its name.
    """
    walk = _Walk(keep or (lambda unit: None), given or {})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        walk.fill(module, name="", drawn=True)
    if unknown := sorted(walk.given.keys() - walk.used):
        raise ValueError(f"{type(module).__name__} has no tensor {unknown[0]} on the meta device")


class _Walk:
    """One pass from the top down, which knows what was shared and what was given."""

    def __init__(self, keep: Keep, given: Mapping[str, Tensor]) -> None:
        self.keep, self.given = keep, given
        self.made: dict[int, tuple[Tensor, Tensor]] = {}  # old ones too, so that ids stay theirs
        self.used: set[str] = set()

    def fill(self, module: nn.Module, *, name: str, drawn: bool) -> None:
        """Fill all that lies on the meta device at ``module`` and below; ``name`` ends in a dot."""
        if not any(tensor.is_meta for *_, tensor in _tensors(module)):
            return
        drawn = drawn and getattr(module, "drawn", True)
        unit = hasattr(module, "reset_parameters")
        if not unit:
            for key, child in module.named_children():
                self.fill(child, name=f"{name}{key}.", drawn=drawn)
        fresh = self._allocate(module, name=name, recurse=unit)
        if drawn and unit and fresh:
            self._refuse_parts(module, name=name, fresh=fresh)
            _reset(module)
        elif drawn and hasattr(module, "reset_rest"):
            module.reset_rest()
        if fresh:
            if drawn:
                _refuse_unfilled(module, fresh)
            self._put(fresh)
            self.keep(module)

    def _allocate(self, module: nn.Module, *, name: str, recurse: bool) -> dict[str, Tensor]:
        """Replace the module's meta tensors; by name, those for which memory is new."""
        fresh = {}
        for path, owner, key, old in [*_tensors(module, recurse=recurse)]:
            if old.is_meta:
                if id(old) not in self.made:
                    self.made[id(old)] = old, _blank(old)
                    fresh[name + path] = self.made[id(old)][1]
                setattr(owner, key, self.made[id(old)][1])
        return fresh

    def _put(self, fresh: dict[str, Tensor]) -> None:
        """Write what is given over what was drawn."""
        for name in fresh.keys() & self.given.keys():
            value, own = self.given[name], fresh[name]
            if value.shape != own.shape:
                shapes = f"{tuple(value.shape)}, not {tuple(own.shape)}"
                raise ValueError(f"{name} is given with shape {shapes}")
            own.copy_(value)
            self.used.add(name)

    def _refuse_parts(self, unit: nn.Module, *, name: str, fresh: dict[str, Tensor]) -> None:
        """A reset would also change what others hold, or find it sharded."""
        new = {id(tensor) for tensor in fresh.values()}
        held = [name + path for path, *_, tensor in _tensors(unit) if id(tensor) not in new]
        if held:
            raise TypeError(f"{type(unit).__name__} cannot be reset: {held[0]} was filled before")


def _tensors(
    module: nn.Module, *, recurse: bool = True
) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Parameters and buffers: path, the module that holds it, its name there, and itself."""
    for place, owner in module.named_modules() if recurse else [("", module)]:
        prefix = f"{place}." if place else ""
        for named in (owner.named_parameters, owner.named_buffers):
            for key, tensor in named(recurse=False, remove_duplicate=False):
                yield prefix + key, owner, key, tensor


def _blank(old: Tensor) -> Tensor:
    """Memory for a meta tensor, on the CPU, in which what nothing fills can be told."""
    empty = torch.nan if old.is_floating_point() else 0
    new = torch.full_like(old, empty, device="cpu", requires_grad=False)
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _reset(module: nn.Module) -> None:
    """Fill a unit as its constructors did: children first."""
    for child in module.children():
        _reset(child)
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()


def _refuse_unfilled(module: nn.Module, fresh: dict[str, Tensor]) -> None:
    able = hasattr(module, "reset_parameters") or hasattr(module, "reset_rest")
    # A sum is NaN where one number is, and needs no memory.
    left = [name for name, tensor in fresh.items() if not able or tensor.sum().isnan()]
    if left:
        raise TypeError(
            f"{type(module).__name__} leaves {', '.join(left)} unfilled: its reset_parameters "
            "or reset_rest must do it"
        )
