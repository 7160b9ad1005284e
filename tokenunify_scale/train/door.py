"""The only door to DeepSpeed: imported quietly, joined without compiling anything."""

import logging
import os
import shutil
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.train.distributed import World, meet, place
from tokenunify_scale.train.strategy import is_narrow, offload_of


def deepspeed() -> Any:
    """The package, quiet.

    Raises:
        HostError: it is not installed.
    """
    try:
        import deepspeed as package
    except ImportError as error:
        raise HostError(f"DeepSpeed cannot be imported ({error}): pip install deepspeed") from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return package


def join() -> World:
    """Join the job's other ranks: nccl on GPUs, gloo on CPUs. Compiles nothing.

    Raises:
        HostError: DeepSpeed is not installed.
    """
    world = place()
    if world.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    package = deepspeed()
    if world.device.type == "cpu":
        # Its shared-memory all-reduce would be built with a compiler at every first use, leaks
        # /dev/shm, and a rank killed while building leaves a lock that later runs wait on.
        package.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    meet(world, backend=backend)
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))  # DeepSpeed insists
    package.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return world


def leave() -> None:
    """Take the process group down, with what DeepSpeed keeps of it: another job may begin here."""
    package = deepspeed()
    if package.comm.is_initialized():
        package.comm.destroy_process_group()


def require(config: dict[str, Any], network: nn.Module) -> None:
    """Refuse what cannot be done for a strategy, here or ever; no device is asked for.

    Args:
        config: what ``ds_config`` returned.
        network: what is trained; may be on the meta device.

    Raises:
        ConfigError: the network has batch norms, which do not take 16-bit weights.
        HostError: state is to lie on NVMe, and the operation that reads and writes it is neither
            installed nor can be built.
    """
    norms = (name for name, part in network.named_modules() if isinstance(part, _BatchNorm))
    if is_narrow(config) and (name := next(norms, None)) is not None:
        raise ConfigError(
            f"bf16 keeps weights in 16 bits, which batch norms such as {name} do not take: take "
            "torch_autocast"
        )
    if offload_of(config) != "nvme":
        return
    deepspeed()
    from deepspeed.git_version_info import installed_ops
    from deepspeed.ops.op_builder import AsyncIOBuilder

    built = installed_ops.get(AsyncIOBuilder.NAME)
    if not built and not (shutil.which("c++") and AsyncIOBuilder().is_compatible()):
        raise HostError(
            "offload to nvme: DeepSpeed's async_io cannot be built here: apt install libaio-dev "
            "g++ (if libaio lies elsewhere, set CFLAGS=-I... and LDFLAGS=-L...), or offload to cpu"
        )
