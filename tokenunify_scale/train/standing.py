"""How a run stands, in words: a block of lines for one, a table for several."""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence

from tokenunify_scale.train.curves import WEIGHT
from tokenunify_scale.train.state import RunState, resumes_at

WIDTH = 100
MIN_NAME = 16  # columns
CURVE = 40  # columns of a drawn curve
LEVELS = ".:-=+*#%@"  # from the lowest value to the highest


def block(state: RunState, *, now: float | None = None) -> list[str]:
    """Lines on one run, of up to 100 columns where its names are not long.

    Args:
        state: as ``read_state`` returned it.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    said = {
        "state": _state(state, now=now),
        "step": _progress(state, now=now),
        "run": _what(state),
        "loss": _losses(state),
        "held out": _held_out(state),
        "weights": _weights(state),
        "rate": ", ".join(_rates(state.rates)),
        "waiting": ", ".join(_waits(state)),
        "memory": _memory(state.rates),
        "skipped": _skipped(state.rates),
        "checkpoint": _checkpoint(state, now=now),
        "result": ", ".join(
            f"{name} {value:.4g}"
            for name, value in state.metrics.items()
            if isinstance(value, int | float) and not state.losses
        ),
    }
    return [state.run, *(f"{name:>12}: {text}" for name, text in said.items() if text)]


def table(states: Sequence[RunState], *, now: float | None = None) -> list[str]:
    """The folder of all runs, a line for each, under a head, and how many are in which state."""
    now = time.time() if now is None else now
    parent = os.path.commonpath([os.path.dirname(state.run) for state in states])
    names = [os.path.relpath(state.run, parent or ".") for state in states]
    head = ("run", "state", "step", "", "left", "loss", "held out", "crops/s", "saved")
    cells = [_row(state, now=now) for state in states]
    rows = [head, *((name, *row) for name, row in zip(names, cells, strict=True))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    room = WIDTH - sum(widths[1:]) - 2 * len(widths[1:])
    widths[0] = max(MIN_NAME, min(widths[0], room))
    lines = [f"{parent}:"] if parent else []
    for run, state, *numbers in rows:
        run = run if len(run) <= widths[0] else "..." + run[3 - widths[0] :]
        right = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[2:], strict=True))
        lines.append("  ".join([f"{run:{widths[0]}}", f"{state:{widths[1]}}", *right]).rstrip())
    words = [state.state for state in states]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return [*lines, f"{len(states)} runs: {counts}"]


def sparkline(values: Sequence[float], *, width: int = CURVE) -> str:
    """A curve in one line of ASCII: ``@`` stands for its highest value, ``.`` for its lowest.

    Args:
        values: in their order; what is not finite is drawn as ``!``.
        width: columns at most; each is the mean of its share of the values.
    """
    count = min(width, len(values))
    cuts = [len(values) * i // count for i in range(count + 1)] if count else []
    means = [math.fsum(values[a:b]) / (b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (high - low) / (len(LEVELS) - 1)
    return "".join(
        LEVELS[round((mean - low) / step) if step else 0] if math.isfinite(mean) else "!"
        for mean in means
    )


def duration(seconds: float) -> str:
    """A time in two units at most: 42 s, 12 min, 3 h 05 min, 2 d 3 h."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _clock(moment: float, *, now: float) -> str:
    """A time of day, with the date where it is another day's."""
    there, here = time.localtime(moment), time.localtime(now)
    same = there[:3] == here[:3]
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", there)


def _state(state: RunState, *, now: float) -> str:
    if state.state == "finished":
        return "finished" + (f" {_clock(state.finished, now=now)}" if state.finished else "")
    if state.state == "running":
        since = f" since {_clock(state.began, now=now)}" if state.began else ""
        return f"running{since}, last heard of {duration(now - state.heard)} ago"
    if state.state == "unreadable":
        return f"unreadable: {state.reason}"
    if state.state == "silent":
        text = f"silent for {duration(now - state.heard)}: {state.reason}"
    else:
        text = state.state + (f": {state.reason}" if state.reason else "")
    if state.steps is None:
        return text
    step = resumes_at(state)
    return f"{text}; " + (f"can go on from step {step:,}" if step else "nothing is saved")


def _progress(state: RunState, *, now: float) -> str:
    if state.step is None or not state.steps:
        return ""
    text = f"{state.step:,} of {state.steps:,} ({state.step / state.steps:.1%})"
    if state.seconds_left is None:
        return text
    end = _clock(now + state.seconds_left, now=now)
    return f"{text}, {duration(state.seconds_left)} left, ends about {end}"


def _what(state: RunState) -> str:
    words = [state.verb or "", state.model or "", state.objective or ""]
    ranks = f"{state.world} rank{'s' * (state.world > 1)}" if state.world else ""
    return ", ".join(word for word in (" ".join(filter(None, words)), ranks) if word)


def _losses(state: RunState) -> str:
    if not state.losses:
        return ""
    first, last = state.first, state.last
    text = f"{last['loss']:.4g} now, {first['loss']:.4g} at step {first['step']:,}"
    return f"{text}  {sparkline(state.losses)}"


def _held_out(state: RunState) -> str:
    if not state.held_out:
        return ""
    first, last = state.held_out_first, state.held_out
    text = f"{last['held_out_loss']:.4g} at step {last['step']:,}"
    if (voi := last.get("held_out_voi")) is not None:
        text += f", VOI {voi:.3g}"
    if first["step"] == last["step"]:
        return text
    return f"{text}, {first['held_out_loss']:.4g} at step {first['step']:,}"


def _weights(state: RunState) -> str:
    return ", ".join(
        f"{name.removeprefix(WEIGHT)} {value:.2f}"
        for name, value in state.rates.items()
        if name.startswith(WEIGHT)
    )


def _rates(rates: Mapping[str, float]) -> Iterator[str]:
    for name, unit in (
        ("crops_per_s", "crops/s"),
        ("tokens_per_s", "tokens/s"),
        ("voxels_per_s", "voxels/s"),
        ("tflop_per_s", "TFLOP/s"),
    ):
        if name in rates:
            yield f"{_number(rates[name])} {unit}"
    if "mfu" in rates:
        yield f"MFU {rates['mfu']:.1%} of {rates['peak_tflops']:g} TFLOP/s a device"


def _waits(state: RunState) -> Iterator[str]:
    rates = state.rates
    if "data_wait" in rates:
        yield f"{rates['data_wait']:.1%} for data"
    if "communication" in rates:
        yield f"{rates['communication']:.1%} for other ranks"
    elif rates and (state.world or 1) > 1:
        yield "for other ranks: not measured"


def _memory(rates: Mapping[str, float]) -> str:
    names = (("peak_rss_gib", "main memory"), ("peak_gpu_gib", "GPU memory"))
    said = [f"{rates[name]:.2f} GiB of {words}" for name, words in names if name in rates]
    return f"{', '.join(said)}, at the peak of the fullest rank" if said else ""


def _skipped(rates: Mapping[str, float]) -> str:
    names = (("steps_skipped", "steps"), ("rollbacks", "times gone back"), ("skipped", "crops"))
    return ", ".join(f"{rates[name]:,} {words}" for name, words in names if rates.get(name))


def _checkpoint(state: RunState, *, now: float) -> str:
    if state.checkpoint is None:
        return ""
    if state.saved is None:
        return f"{state.checkpoint}, which is missing"
    return f"{state.checkpoint}, {duration(now - state.saved)} old"


def _row(state: RunState, *, now: float) -> tuple[str, ...]:
    done = f"{state.step / state.steps:.0%}" if state.step is not None and state.steps else ""
    rate, left = state.rates.get("crops_per_s"), state.seconds_left
    held_out = state.held_out.get("held_out_loss")
    return (
        state.state,
        "" if state.step is None else f"{state.step:,}",
        done,
        "" if left is None else duration(left),
        f"{state.losses[-1]:.4g}" if state.losses else "",
        "" if held_out is None else f"{held_out:.4g}",
        "" if rate is None else _number(rate),
        "" if state.saved is None else duration(now - state.saved),
    )


def _number(value: float) -> str:
    """Three digits, thousands apart, and no powers of ten."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1e-4 else f"{value:.1e}"
