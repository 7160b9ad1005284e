import os

import pytest

from tokenunify_scale.train import alike
from tokenunify_scale.train.finding import Job, Patient

HERE = {
    "name": "head", "python": "3.11.7", "executable": "/env/bin/python", "folder": "/code",
    "packages": {"torch": "2.5.1+cu121", "deepspeed": "0.19.8", "numpy": "2.0", alike.OURS: "0.1"},
    "code": {"cli.py": "a", "train/loop.py": "b"}, "gpus": None, "environment": {},
}  # fmt: skip
GPU = {"gpus": [{"name": "H100"}], "name": "gpu1"}


def told(check, *, name="node2", here=None, gpu=None, mistakes=(), **changes):
    """Remarks on a host that differs from HERE in ``changes``."""
    job = Job(here={**HERE, **(here or {})}, gpu=gpu, mistakes=mistakes)
    remarks = list(check(Patient(name=name, facts={**HERE, **changes}), job))
    assert all(len(remark) == 4 and all(remark) for remark in remarks)
    return remarks


@pytest.mark.parametrize(
    "check", [alike.python, alike.packages, alike.code, alike.variables], ids=lambda c: c.__name__
)
def test_a_host_like_this_one_is_fine(check):
    assert told(check) == []


def test_another_python_or_path_is_found():
    ((severity, found, wanted, remedy),) = told(alike.python, python="3.10.2")
    assert severity == "error" and found == "Python 3.10.2" and wanted.startswith("3.11.7")
    assert remedy == "rsync -a /env/ node2:/env/"
    ((_, found, _, _),) = told(alike.python, executable="/usr/bin/python3", python="3.9.1")
    assert found == "no /env/bin/python (python3 is /usr/bin/python3, 3.9.1)"


def test_each_other_version_is_found_with_the_command_that_installs_it():
    packages = {**HERE["packages"], "torch": "2.4.0", "numpy": "1.26"}
    del packages["deepspeed"]
    torch, deepspeed, numpy = told(alike.packages, packages=packages)
    assert torch[1:3] == ("torch 2.4.0", "2.5.1+cu121, as here")
    assert "'/env/bin/python -m pip install torch==2.5.1+cu121" in torch[3]
    assert torch[3].endswith("--index-url THE_INDEX_IT_CAME_FROM_HERE'")
    assert deepspeed[1] == "deepspeed is not installed" and numpy[1] == "numpy 1.26"
    del packages[alike.OURS]
    assert "pip install -e /code" in told(alike.packages, packages=packages)[0][3]


def test_kernels_are_wanted_where_there_are_gpus_and_alike_among_those():
    assert len(told(alike.packages, **GPU)) == 2
    kernels = {**HERE["packages"], "mamba-ssm": "2.2", "causal-conv1d": "1.4"}
    first = {**HERE, **GPU, "packages": kernels}
    assert told(alike.packages, gpu=first, **GPU, packages=kernels) == []
    ((_, found, wanted, _),) = told(
        alike.packages, gpu=first, **GPU, packages={**kernels, "mamba-ssm": "2.1"}
    )
    assert found == "mamba-ssm 2.1" and wanted == "2.2, as on gpu1"


def test_other_code_is_found_by_file():
    code = {"cli.py": "a", "train/loop.py": "c", "new.py": "d"}
    ((_, found, _, remedy),) = told(alike.code, code=code)
    assert found == "2 files differ: new.py, train/loop.py"
    assert remedy == "rsync -a --delete /code/ node2:/code/"
    assert told(alike.code, code={**HERE["code"], "cli.py": "z"})[0][1] == "1 file differs: cli.py"
    assert [remark[1] for remark in told(alike.code, code=None, folder="/root")] == [
        "no folder /code", "no package tokenunify_scale",
    ]  # fmt: skip


def test_variables_that_do_not_travel_are_named(tmp_path):
    path = f"/bin{os.pathsep}{tmp_path}{os.pathsep}/no/such/folder"
    here = {"environment": {"PATH": path, "OMP_NUM_THREADS": "4", "NCCL_DEBUG": "INFO"}}
    there = {"PATH": "/bin", "NCCL_DEBUG": "WARN", "GLOO_X": "1"}
    nccl, omp, folders = told(alike.variables, here=here, environment=there)
    assert nccl[1:3] == ("NCCL_DEBUG is WARN", "INFO, as here") and nccl[0] == "warning"
    assert omp[3] == "echo OMP_NUM_THREADS=4 >> ~/.deepspeed_env"
    assert folders[1] == f"PATH lacks {tmp_path}"
    assert folders[3] == 'echo "PATH=$PATH" >> ~/.deepspeed_env'


def test_lines_that_deepspeed_cannot_read_are_told_of_this_machine():
    mistakes = ["/home/em/.deepspeed_env:3: a blank line, which DeepSpeed cannot read"]
    assert told(alike.variables, mistakes=mistakes) == []
    ((severity, found, _, remedy),) = told(alike.variables, mistakes=mistakes, name=None)
    assert severity == "error" and found == mistakes[0]
    assert remedy == "vi +3 /home/em/.deepspeed_env"
