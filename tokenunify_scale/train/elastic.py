"""What of a job's hosts is there now, and how many ranks of it can share the work."""

import socket
from collections.abc import Callable, Mapping

from tokenunify_scale.train.reach import visit_all


def ask(slots: Mapping[str, int], *, timeout: float) -> tuple[dict[str, int], str, list[str]]:
    """Ask all hosts over ssh, side by side.

    Args:
        slots: ranks by host, as ssh takes its name.
        timeout: seconds after which a host counts as lost.

    Returns:
        The slots that are there: a host that answers, and no more than its GPUs, if it has any; the
        address of the first such host, which is where DeepSpeed too would have ranks meet; and what
        is lost, each with a reason.

    Raises:
        HostError: there is no ssh here.
    """
    there: dict[str, int] = {}
    lost, address = [], ""
    for visit in visit_all(list(slots), {}, exports={}, timeout=timeout):
        name = visit.name or ""
        if visit.facts is None:
            lost.append(f"{name} ({visit.told})")
            continue
        gpus = visit.facts["torch_gpus"]
        there[name] = min(slots[name], gpus) if isinstance(gpus, int) else slots[name]
        if there[name] < slots[name]:
            lost.append(f"{slots[name] - there[name]} GPUs of {name}")
        address = address or visit.facts["first_address"] or ""
    return {name: ranks for name, ranks in there.items() if ranks}, address, lost


def share(slots: Mapping[str, int], *, fits: Callable[[int], bool]) -> dict[str, int]:
    """The most ranks that can share the work; hosts with most slots give some up first.

    Args:
        slots: ranks by host.
        fits: whether a number of ranks can share it equally.
    """
    found = dict(slots)
    world = next((world for world in range(sum(found.values()), 0, -1) if fits(world)), 0)
    while sum(found.values()) > world:
        found[max(reversed(found), key=found.__getitem__)] -= 1
    return {host: ranks for host, ranks in found.items() if ranks}


def own_address(other: str) -> str:
    """The address of this machine that another one reaches it by: of the way that leads there."""
    family, _, _, _, place = socket.getaddrinfo(other, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(place)  # sends nothing
        return probe.getsockname()[0]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
