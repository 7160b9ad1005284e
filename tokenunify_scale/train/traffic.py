"""What ranks send each other in an optimizer step, by collective.

Source: Rajbhandari et al. 2020 (ZeRO), Sec. 7: twice the parameters without ZeRO and in stages 1
and 2, three times in stage 3; here with gradient accumulation, which stages 2 and 3 pay again.
"""

from collections.abc import Mapping
from typing import Any

from tokenunify_scale.train.memory import FP32, Inventory
from tokenunify_scale.train.strategy import is_narrow


def traffic(config: Mapping[str, Any], *, counted: Inventory, world: int) -> dict[str, float]:
    """Bytes that each rank sends in a step, by collective: an upper bound.

    Every collective goes round a ring, of which a rank keeps its own part: (world - 1) / world of a
    tensor. Under ``torch_autocast`` DeepSpeed sends some of it in 16 bits, which is not reckoned
    with; nor is what ZeRO-3 keeps gathered between two uses.

    Args:
        config: DeepSpeed's, as ``ds_config`` returned it.
        counted: of the objective.
        world: number of ranks.
    """
    stage, times = config["zero_optimization"]["stage"], config["gradient_accumulation_steps"]
    word = (2 if is_narrow(config) else FP32) * (world - 1) / world
    trained, everything = word * counted.trained, word * (counted.trained + counted.frozen)
    if stage == 0:
        return {"all_reduce": 2 * trained}
    if stage < 3:
        return {"reduce_scatter": trained * (times if stage == 2 else 1), "all_gather": trained}
    # Of small parameters every rank has a copy, renewed once.
    small = word * counted.small
    again = 2 * times * (everything - small)  # for the forward and for the backward pass
    return {"reduce_scatter": times * trained, "all_gather": again + small}
