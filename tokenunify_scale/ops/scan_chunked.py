"""The selective scan in plain torch, for hosts without numba: many pieces of a sequence at once.

The order of visits is cut into the pieces of ``STEPS`` before which states are kept. The pieces of
a group take their steps side by side, twice: first from zero, which tells what a piece adds to the
state that enters it; then, once a short loop has handed states from piece to piece, from the true
state. The backward pass recomputes the states of a group from those kept, and walks back likewise.
Beyond inputs, results and kept states, memory is that of one group.

In a group of P pieces of S steps, inputs are [S, B, P, E] and [S, B, P, N], states [B, P, N, E].
Sums of products are not matrix products, which would follow autocast and TF32.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.nn.functional import softplus as torch_softplus

from tokenunify_scale.ops.order import STEPS, visit

Optional = Tensor | None
TOGETHER = 2**16
"""Numbers of a state (B P N E) that step together on a CPU: what a step touches stays in its L2."""
TOGETHER_ELSEWHERE = 2**20


class _Arguments(NamedTuple):
    """The arguments of a scan; weights in the precision of the state and never absent, A [N, E]."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Optional
    bias: Tensor


def _arguments(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional,
               z: Optional, bias: Optional) -> _Arguments:
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    rates = A.to(wide).t().contiguous()
    D, bias = (rates.new_zeros(len(A)) if x is None else x.to(wide) for x in (D, bias))
    return _Arguments(u, delta, rates, B, C, D, z, bias)


def _groups(given: _Arguments, chunks: int) -> list[tuple[int, Tensor]]:
    """First piece and positions [S, P] of each group; a piece of fewer steps comes last, alone."""
    device, (batch, _, length) = given.u.device, given.u.shape
    numbers = TOGETHER if device.type == "cpu" else TOGETHER_ELSEWHERE
    together = max(1, numbers // (batch * given.A.numel()))
    order = visit(torch.arange(length, device=device), chunks)
    whole = length // STEPS
    places = order[:whole * STEPS].view(whole, STEPS).t()
    groups = [(p, places[:, p:p + together]) for p in range(0, whole, together)]
    return groups + [(whole, order[whole * STEPS:, None])] * (length % STEPS > 0)


def _scratch(given: _Arguments, groups: list[tuple[int, Tensor]], *, steps: int) -> Tensor:
    """Room for the states of so many steps of any group [steps, B, P, N, E]."""
    pieces = max(places.shape[1] for _, places in groups)
    return given.A.new_empty(steps, len(given.u), pieces, *given.A.shape)


class _Group:
    """Step sizes, inputs and columns of some pieces; ``enter`` computes the decays."""

    def __init__(self, given: _Arguments, places: Tensor, decays: Tensor, *,
                 softplus: bool) -> None:
        self.places = places.flatten()
        self.steps, self.pieces = places.shape
        self.A, self.D = given.A, given.D
        self.x = self.along(given.u)
        self.raw = self.along(given.delta) + given.bias
        self.dt = torch_softplus(self.raw) if softplus else self.raw
        self.dtx = self.dt * self.x
        self.b, self.c = self.along(given.B), self.along(given.C)
        self.decays = decays[:self.steps, :, :self.pieces]
        self.whole_decays = torch.exp(self.dt.sum(0)[:, :, None] * self.A)

    def along(self, x: Tensor) -> Tensor:
        """The group's part of [B, width, L] as [S, B, P, width]."""
        taken = x.transpose(1, 2).index_select(1, self.places).to(self.A.dtype)
        return taken.unflatten(1, (self.steps, self.pieces)).transpose(0, 1)

    def put(self, into: Tensor, x: Tensor) -> None:
        """Write [S, B, P, width] to the group's part of [B, L, width]."""
        into.index_copy_(1, self.places, x.transpose(0, 1).flatten(1, 2).to(into.dtype))

    def walk(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Decay, scaled input and column B of each step, ready to meet the state."""
        return zip(self.decays, self.dtx[:, :, :, None], self.b[..., None], strict=True)

    def enter(self, carry: Tensor) -> Tensor:
        """States before the pieces, from the state [B, N, E] before the group."""
        ends = self.A.new_zeros(len(carry), self.pieces - 1, *self.A.shape)
        for dt, (decay, dtx, b) in zip(self.dt[:, :, :, None], self.walk(), strict=True):
            torch.mul(dt, self.A, out=decay).exp_()
            ends.mul_(decay[:, :-1]).addcmul_(dtx[:, :-1], b[:, :-1])
        return _hand_on([carry, *ends.unbind(1)], self.whole_decays.unbind(1))

    def recompute(self, starts: Tensor, history: Tensor) -> Tensor:
        """States before every step and after the last; sets the decays."""
        history = history[:self.steps + 1, :, :self.pieces]
        history[0] = starts
        for k, (decay, dtx, b) in enumerate(self.walk()):
            torch.mul(self.dt[k, :, :, None], self.A, out=decay).exp_()
            torch.mul(history[k], decay, out=history[k + 1]).addcmul_(dtx, b)
        return history

    def leave(self, carry: Tensor, dout: Tensor) -> Tensor:
        """Gradients of the states after the pieces, from that of the state after the group."""
        starts = self.A.new_zeros(len(carry), self.pieces - 1, *self.A.shape)
        for k in reversed(range(self.steps)):
            starts.addcmul_(dout[k, :, 1:, None], self.c[k, :, 1:, :, None])
            starts.mul_(self.decays[k, :, 1:])
        back = _hand_on([carry, *starts.unbind(1)[::-1]], self.whole_decays.unbind(1)[::-1])
        return back.flip(1)


def _hand_on(added: list[Tensor], factors: tuple[Tensor, ...]) -> Tensor:
    """x[0] = added[0], x[p] = added[p] + factors[p - 1] x[p - 1], stacked along axis 1."""
    steps = [added[0]]
    for term, factor in zip(added[1:], factors[:-1], strict=True):
        steps.append(torch.addcmul(term, factor, steps[-1]))
    return torch.stack(steps, 1)


def _outputs(group: _Group, state: Tensor) -> tuple[Tensor, Tensor]:
    """C h + D u at every step, from the states before the pieces; and the state after the group."""
    out, product = torch.empty_like(group.x), torch.empty_like(state)
    for k, (decay, dtx, b) in enumerate(group.walk()):
        state.mul_(decay).addcmul_(dtx, b)
        torch.sum(torch.mul(state, group.c[k, ..., None], out=product), 2, out=out[k])
    return out.addcmul_(group.D, group.x), state[:, -1]


def forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional, z: Optional,
            bias: Optional, *, softplus: bool, chunks: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Scan u [B, E, L] and gate by z; shapes as in ``ops.selective_scan``.

    Returns:
        y [B, E, L] of u's type, its memory [B, L, E]; and the state before each piece of the
        sequence [B, pieces, N, E], of no pieces unless ``keep``.
    """
    given = _arguments(u, delta, A, B, C, D, z, bias)
    groups = _groups(given, chunks)
    decays = _scratch(given, groups, steps=min(STEPS, u.shape[2]))
    carry = decays.new_zeros(len(u), *given.A.shape)
    states = carry.new_empty(len(u), -(-u.shape[2] // STEPS) if keep else 0, *given.A.shape)
    y = u.new_empty(len(u), u.shape[2], u.shape[1])
    for first, places in groups:
        group = _Group(given, places, decays, softplus=softplus)
        starts = group.enter(carry)
        if keep:
            states[:, first:first + group.pieces] = starts
        out, carry = _outputs(group, starts)
        if z is not None:
            out.mul_(silu(group.along(z)))
        group.put(y, out)
    return y.transpose(1, 2), states


def backward(dy: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional,
             z: Optional, bias: Optional, states: Tensor, *, softplus: bool,
             chunks: int) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z and bias, each of its input's shape and type.

    The gradient of an input that was not given is an empty tensor.
    """
    given = _arguments(u, delta, A, B, C, D, z, bias)
    groups = _groups(given, chunks)
    steps = min(STEPS, u.shape[2])
    decays = _scratch(given, groups, steps=steps)
    history = _scratch(given, groups, steps=steps + 1)
    carry = decays.new_zeros(len(u), *given.A.shape)
    *along, dz = (x.new_empty(len(x), x.shape[2], x.shape[1])
                  for x in (u, delta, B, C, u if z is None else z))
    weights = [torch.zeros_like(x) for x in (given.A, given.D, given.bias)]
    for first, places in reversed(groups):
        group = _Group(given, places, decays, softplus=softplus)
        saved = group.recompute(states[:, first:first + group.pieces], history)
        dout = group.along(dy)
        if z is not None:
            dout, gate = _through_gate(group, saved, dout, group.along(z))
            group.put(dz, gate)
        gradients, summed, carry = _walk_back(group, saved, dout, carry, softplus=softplus)
        for into, gradient in zip(along, gradients, strict=True):
            group.put(into, gradient)
        for total, part in zip(weights, summed, strict=True):
            total += part

    def like(x: Optional, gradient: Tensor) -> Tensor:
        return states.new_empty(0) if x is None else gradient.to(x.dtype)

    du, ddelta, dB, dC = (x.transpose(1, 2) for x in along)
    dA, dD, dbias = weights
    return (du, ddelta, dA.t().to(A.dtype), dB, dC, like(D, dD),
            like(z, dz.transpose(1, 2)), like(bias, dbias))


def _through_gate(group: _Group, saved: Tensor, dy: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of what z gates, and of z."""
    out, product = torch.empty_like(dy), torch.empty_like(saved[0])
    for k in range(group.steps):
        torch.sum(torch.mul(saved[k + 1], group.c[k, ..., None], out=product), 2, out=out[k])
    out.addcmul_(group.D, group.x)
    share = z.sigmoid()
    return dy * z * share, dy * out * share * (1 + z * (1 - share))


def _walk_back(group: _Group, saved: Tensor, dout: Tensor, carry: Tensor, *,
               softplus: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Gradients of u, delta, B, C; sums of those of A, D, bias; and that of the first state."""
    state = group.leave(carry, dout)
    product, rates = torch.empty_like(state), torch.zeros_like(state)
    db, dc = torch.empty_like(group.b), torch.empty_like(group.c)
    ddt, ddtx = torch.empty_like(group.x), torch.empty_like(group.x)
    for k in reversed(range(group.steps)):
        dy, dt, dtx = (x[k, :, :, None] for x in (dout, group.dt, group.dtx))
        torch.sum(torch.mul(saved[k + 1], dy, out=product), 3, out=dc[k])
        state.addcmul_(dy, group.c[k, ..., None])
        torch.sum(torch.mul(state, dtx, out=product), 3, out=db[k])
        torch.sum(torch.mul(state, group.b[k, ..., None], out=product), 2, out=ddtx[k])
        torch.mul(state.mul_(group.decays[k]), saved[k], out=product)
        rates.addcmul_(product, dt)
        torch.sum(product.mul_(group.A), 2, out=ddt[k])
    ddt.addcmul_(ddtx, group.x)
    if softplus:
        ddt.mul_(group.raw.sigmoid())
    du = (ddtx * group.dt).addcmul_(dout, group.D)
    sums = rates.sum((0, 1)), (dout * group.x).sum((0, 1, 2)), ddt.sum((0, 1, 2))
    return (du, ddt, db, dc), sums, state[:, 0]
