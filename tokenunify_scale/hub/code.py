"""The Python files that travel with an exported network."""

import ast

from tokenunify_scale.hub.bundle import bundle
from tokenunify_scale.hub.definitions import Place, read
from tokenunify_scale.registry import MODELS

PARTS = "tokenunify_scale.hub.parts"
CONFIGURATION, MODELING = "configuration_tokenunify", "modeling_tokenunify"
OPS = "tokenunify_scale.ops"
# At home these run kernels for numba, and are operations registered with torch.
KERNELS = {
    Place(f"{OPS}.{name}", name): Place(f"{PARTS}.kernels", name)
    for name in ("tri_mamba", "instance_norm", "causal_conv1d", "selective_scan")
}
ORIGIN = """{purpose}

Written by tokenunify_scale, from whose modules the definitions below are taken as they
stand there. Licence: Apache-2.0.
"""


def code_of(name: str) -> dict[str, str]:
    """Configuration and network as two modules that import torch, transformers and each other.

    Args:
        name: of a registered network.

    Returns:
        Texts by file name.

    Raises:
        ConfigError: unknown network.
    """
    entry = MODELS.get(name)
    network = Place(entry.factory.__module__, entry.factory.__name__)
    options = Place(type(entry.config).__module__, type(entry.config).__name__)
    exchange = {
        **KERNELS,
        Place("tokenunify_scale.models.emmamba", "EMmamba"): network,
        Place("tokenunify_scale.models.emmamba_config", "EMmambaConfig"): options,
    }
    modeling = bundle(
        {n: Place(f"{PARTS}.{MODELING}", n) for n in ("TokenUnifyOutput", "TokenUnifyModel")},
        exchange=exchange,
        beside={f"{PARTS}.{CONFIGURATION}": f".{CONFIGURATION}"},
        heading=_heading(MODELING),
    )
    configuration = bundle(
        {"TokenUnifyConfig": Place(f"{PARTS}.{CONFIGURATION}", "TokenUnifyConfig")},
        exchange={},
        beside={},
        heading=_heading(CONFIGURATION),
    )
    return {f"{CONFIGURATION}.py": configuration, f"{MODELING}.py": modeling}


def _heading(module: str) -> str:
    """What a part says of itself, and where it comes from."""
    purpose = ast.get_docstring(ast.parse("\n".join(read(f"{PARTS}.{module}").lines)))
    return ORIGIN.format(purpose=purpose)
