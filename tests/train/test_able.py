from pathlib import Path

import pytest

from tokenunify_scale.train import able
from tokenunify_scale.train.finding import Job, Patient

GIB = able.GIB
FACTS = {
    "name": "node2", "cores": 8, "gpus": None, "gpu_error": None, "torch_gpus": None,
    "memory": {"total": 64 * GIB, "available": 32 * GIB}, "locks": [], "clock": [100.0, 101.0],
    "free": {"/data": 90 * GIB, "/dev/shm": 8 * GIB, "/tmp": 8 * GIB}, "environment": {},
    "addresses": {"node1": ["10.0.0.1"], "node2": ["10.0.0.2"]}, "port_error": None,
    "first_address": "10.0.0.2",
    "interfaces": {"lo": "127.0.0.1", "eth0": "10.0.0.2", "ib0": None},
    "shared": {"there": True, "token": True, "error": None},
}  # fmt: skip
GPU = {"name": "H100", "total": 80 * GIB, "used": 0}
CHECKS = (able.network, able.slots, able.folder, able.clock, able.disk, able.locks, able.memory)


def told(check, *, name="node2", slots=4, job=None, visit=None, **changes):
    """Remarks on a host that differs from FACTS in ``changes``."""
    wanted = {"names": ["node1", "node2"], "shared": Path("/data"), "shared_bytes": 20 * GIB}
    visit = {"asked": 100.0, "answered": 101.0, **(visit or {})}
    patient = Patient(name=name, slots=slots, facts={**FACTS, **changes}, **visit)
    remarks = list(check(patient, Job(here=FACTS, **{**wanted, **(job or {})})))
    assert all(len(remark) == 4 and all(remark) for remark in remarks)
    return remarks


def one(*args, **kwargs):
    """The only remark: its severity, and what was found."""
    ((severity, found, _, _),) = told(*args, **kwargs)
    return severity, found


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_host_in_order_is_fine(check):
    assert told(check) == []


@pytest.mark.parametrize("own", [["127.0.1.1"], []])
def test_an_own_name_that_leads_nowhere_is_found_unless_an_interface_is_named(own):
    addresses = {**FACTS["addresses"], "node2": own}
    ((severity, _, _, remedy),) = told(able.network, addresses=addresses)
    assert severity == "error"
    assert remedy == "echo GLOO_SOCKET_IFNAME=eth0 >> ~/.deepspeed_env"
    named = {"environment": {"GLOO_SOCKET_IFNAME": "eth0"}, "addresses": addresses}
    assert told(able.network, **named) == []
    assert one(able.network, addresses=addresses, gpus=[GPU])[0] == "warning"


def test_names_of_the_others_are_resolved_and_loopbacks_refused():
    addresses = FACTS["addresses"]
    assert one(able.network, addresses={**addresses, "node1": []}) == (
        "warning", "no address of node1",
    )  # fmt: skip
    assert one(able.network, addresses={**addresses, "node1": ["127.0.0.1"]}) == (
        "error", "node1 is 127.0.0.1 there",
    )  # fmt: skip


def test_whom_it_does_not_reach_is_named():
    unreached = [["node1", "10.0.0.1", 4711, "timed out"]]
    found = one(able.network, visit={"unreached": unreached})
    assert found == ("error", "node1 (10.0.0.1) is not reached: timed out")
    assert one(able.network, visit={"unreached": None})[1] == "no answer while the hosts met"


@pytest.mark.parametrize(
    "variable, value, fine",
    [
        ("GLOO_SOCKET_IFNAME", "eth0", True),
        ("GLOO_SOCKET_IFNAME", "eth0,eth1", False),
        ("GLOO_SOCKET_IFNAME", "eth", False),
        ("NCCL_SOCKET_IFNAME", "eth", True),
        ("NCCL_SOCKET_IFNAME", "^docker", True),
        ("NCCL_SOCKET_IFNAME", "bond0", False),
    ],
)
def test_an_interface_that_a_variable_names_must_be_there(variable, value, fine):
    assert (told(able.network, environment={variable: value}) == []) is fine


def test_the_port_matters_on_the_first_host():
    busy = {"port_error": "Address already in use"}
    assert told(able.network, **busy) == []
    assert one(able.network, visit={"first": True}, **busy) == (
        "error", "port 29500: address already in use",
    )  # fmt: skip
    assert one(able.network, visit={"first": True}, name=None, **busy)[0] == "warning"


def test_the_first_host_must_tell_an_address():
    assert told(able.network, first_address=None) == []
    found = one(able.network, visit={"first": True}, first_address=None)
    assert found == ("error", "hostname -I gives no address")


def test_slots_are_held_against_devices():
    assert one(able.slots, slots=9) == ("warning", "slots=9 on 8 cores")
    gpus = {"gpus": [GPU] * 4, "torch_gpus": 4}
    assert told(able.slots, **gpus) == []
    assert one(able.slots, slots=8, **gpus) == ("error", "slots=8 on 4 GPUs")
    assert one(able.slots, slots=2, **gpus) == ("warning", "slots=2 on 4 GPUs")
    assert one(able.slots, gpus=[GPU] * 4, torch_gpus=0) == ("error", "torch sees 0 of 4 GPUs")
    taken = {**gpus, "gpus": [GPU, {**GPU, "used": 40 * GIB}, GPU, GPU]}
    assert one(able.slots, **taken) == ("warning", "GPU 1: memory is in use")
    broken = {"gpus": [], "gpu_error": "no driver"}
    assert one(able.slots, slots=None, **broken) == ("error", "nvidia-smi: no driver")
    other = {"gpu": {"name": "node1", "gpus": [GPU]}}
    assert one(able.slots, job=other) == ("error", "no GPU, and node1 has 1")


def test_a_folder_that_is_not_the_same_or_not_writable_is_found():
    def shared(**changes):
        return told(able.folder, shared={**FACTS["shared"], **changes})

    assert shared(there=False, token=False)[0][1] == "no folder /data"
    ((_, found, _, remedy),) = shared(token=False)
    assert found == "/data is another folder than here" and "ssh node2 'findmnt -T /data'" in remedy
    assert shared(error="Read-only file system")[0][1] == "/data: read-only file system"
    assert told(able.folder, shared=None) == []


@pytest.mark.parametrize(
    "began, ended, found",
    [
        (100.5, 101.9, None),  # the login took half a second
        (97.9, 99.0, "2.1 s behind this machine, or more"),
        (104.0, 105.0, "4.0 s ahead of this machine, or more"),
    ],
)
def test_a_clock_is_wrong_only_if_question_and_answer_prove_it(began, ended, found):
    remarks = told(able.clock, clock=[began, ended])
    assert [(severity, text) for severity, text, *_ in remarks] == (
        [("warning", found)] if found else []
    )


def test_room_is_told_of_the_shared_folder_once_and_of_scratch_everywhere():
    little = {"/data": 5 * GIB, "/dev/shm": GIB // 16, "/tmp": None}
    assert one(able.disk, free=little) == ("warning", "/dev/shm: 0.1 GiB free")
    here = [remark[:2] for remark in told(able.disk, name=None, free=little)]
    assert here[0] == ("warning", "/data: 5.0 GiB free") and len(here) == 2
    assert told(able.disk, name=None, free={"/data": 1000})[0][0] == "error"


def test_an_old_lock_is_an_error_and_a_young_one_a_build():
    found = told(able.locks, locks=[["/c/lock", 3.0], ["/d/lock", 90.0]])
    ((severity, text, _, remedy),) = found
    assert severity == "error" and text == "/d/lock is 90 minutes old"
    assert remedy == "ssh node2 'rm /d/lock'"


def test_memory_is_counted_by_rank():
    memory = {"total": 8 * GIB, "available": 7 * GIB}
    assert told(able.memory, slots=3, memory=memory) == []
    assert one(able.memory, memory=memory) == ("warning", "7.0 GiB available for 4 ranks")
