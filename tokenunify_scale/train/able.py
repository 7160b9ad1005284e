"""What a host must be able to do: reach the others, hold its ranks, write where all write."""

import shlex
from collections.abc import Iterator

from tokenunify_scale.train.finding import Facts, Job, Patient, Remark, some
from tokenunify_scale.train.reach import is_loopback

GIB = 2**30
SCRATCH = ("/dev/shm", "/tmp")
SCRATCH_BYTES, RANK_BYTES, LEAST_BYTES = GIB, 2 * GIB, GIB
SKEW_SECONDS, LOCK_MINUTES = 2.0, 10.0
BUSY = 0.1  # of a GPU's memory
INTERFACES = {"GLOO_SOCKET_IFNAME": str.__eq__, "NCCL_SOCKET_IFNAME": str.startswith}


def network(patient: Patient, job: Job) -> Iterator[Remark]:
    """Names resolve, the ranks' addresses are reached, and the port of the first host is free."""
    facts = patient.facts
    if patient.first and facts["port_error"]:
        found = f"port {job.port}: {facts['port_error'].lower()}"
        remedy = f"deepspeed --master_port {job.port + 1} ..."
        # One process alone needs no port.
        severity = "warning" if patient.name is None else "error"
        yield severity, found, "a free port, where the ranks meet", remedy
    if patient.name is None:
        return
    if patient.first and not facts["first_address"]:
        told = "hostname -I gives no address"
        remedy = "deepspeed --master_addr ADDRESS ..."
        yield "error", told, "the address that the launcher takes for the ranks to meet", remedy
    yield from _interfaces(facts, job)
    yield from _names(patient, job)
    if patient.unreached is None:
        yield "error", "no answer while the hosts met", "an answer", "tokenunify doctor once more"
    for name, address, _, reason in patient.unreached or ():
        remedy = f"open the firewall between the hosts; {patient.on(f'ip route get {address}')}"
        found = f"{name} ({address}) is not reached: {reason.lower()}"
        yield "error", found, "TCP between all hosts, on any port", remedy


def _interfaces(facts: Facts, job: Job) -> Iterator[Remark]:
    """The interfaces that variables name are there; NCCL takes the beginnings of names."""
    for variable, fits in INTERFACES.items():
        value = facts["environment"].get(variable, "")
        if value.startswith(("^", "=")):
            continue
        for name in filter(None, value.split(",")):
            if not any(fits(there, name) for there in facts["interfaces"]):
                found = f"{variable}={value}, and there is no interface {name}"
                wanted = f"one of {', '.join(facts['interfaces'])}"
                yield "error", found, wanted, f"correct {variable} in {job.travel_file}"


def _names(patient: Patient, job: Job) -> Iterator[Remark]:
    """Gloo listens where a host's own name leads; a loopback address there reaches nobody."""
    facts, addresses = patient.facts, patient.facts["addresses"]
    own = addresses.get(facts["name"], [])
    if "GLOO_SOCKET_IFNAME" not in facts["environment"] and all(map(is_loopback, own)):
        usable = [name for name, a in facts["interfaces"].items() if a and not is_loopback(a)]
        found = f"its own name {facts['name']} is {', '.join(own) or 'no address'}"
        remedy = f"echo GLOO_SOCKET_IFNAME={(usable or ['eth0'])[0]} >> {job.travel_file}"
        severity = "warning" if facts["gpus"] else "error"  # NCCL chooses by itself
        yield severity, found, "an address that the other hosts reach", remedy
    for name in job.names:
        found = addresses.get(name, [])
        if _short(name) in (_short(facts["name"]), _short(patient.name or "")):
            continue
        if not found or any(map(is_loopback, found)):
            line = f"echo ADDRESS {name} >> /etc/hosts"
            told = f"{name} is {', '.join(found)} there" if found else f"no address of {name}"
            # The ranks meet by address; Open MPI, and people, go by name.
            severity = "error" if found else "warning"
            yield severity, told, "an address that is reached from there", patient.on(line)


def _short(name: str) -> str:
    return name.rpartition("@")[2].partition(".")[0]


def slots(patient: Patient, job: Job) -> Iterator[Remark]:
    """As many devices as ranks, and torch sees them."""
    facts, wanted = patient.facts, patient.slots
    gpus, name = facts["gpus"], patient.name or "this machine"
    if facts["gpu_error"]:
        remedy = patient.on("nvidia-smi; dmesg | tail")
        yield "error", f"nvidia-smi: {some([facts['gpu_error']])}", "GPUs that answer", remedy
    elif gpus:
        if facts["torch_gpus"] != len(gpus):
            remedy = patient.on("nvidia-smi; python3 -m torch.utils.collect_env")
            found = f"torch sees {facts['torch_gpus']} of {len(gpus)} GPUs"
            yield "error", found, "a torch built for this driver's CUDA", remedy
        busy = [str(i) for i, gpu in enumerate(gpus) if gpu["used"] > BUSY * gpu["total"]]
        if busy:
            found = f"GPU {some(busy, most=8)}: memory is in use"
            yield "warning", found, "nobody else there", patient.on("nvidia-smi")
    elif job.gpu and wanted:
        found = f"no GPU, and {job.gpu['name']} has {len(job.gpu['gpus'])}"
        yield "error", found, "the same kind of device on all hosts", f"take {name} out"
        return
    devices = len(gpus) if gpus else facts["cores"]
    word = "GPUs" if gpus else "cores"
    if wanted and wanted > devices:
        severity = "error" if gpus else "warning"
        remedy = f"write '{name} slots={devices}' into the hostfile"
        yield severity, f"slots={wanted} on {devices} {word}", f"at most {devices}", remedy
    elif wanted and gpus and wanted < devices:
        remedy = f"write '{name} slots={devices}' into the hostfile"
        yield "warning", f"slots={wanted} on {devices} GPUs", "no idle GPU", remedy


def folder(patient: Patient, job: Job) -> Iterator[Remark]:
    """All hosts see the same folder, and can write to it."""
    found = patient.facts["shared"]
    if found is None or job.shared is None:
        return
    path = shlex.quote(str(job.shared))
    if not found["there"]:
        alone = patient.name is None
        remedy = f"mkdir -p {path}" if alone else f"mount it: {patient.on('findmnt')}"
        yield "error", f"no folder {job.shared}", "the folder of --out on every host", remedy
        return
    if not found["token"]:
        there = patient.on(f"findmnt -T {path}")
        remedy = f"compare findmnt -T {path} with {there}, and mount the one of here"
        told = f"{job.shared} is another folder than here"
        yield "error", told, "one folder that all hosts share", remedy
    if found["error"]:
        told = f"{job.shared}: {found['error'].lower()}"
        remedy = patient.on(f"ls -ld {path}; id; df {path}")
        yield "error", told, "a folder that can be written to", remedy


def clock(patient: Patient, job: Job) -> Iterator[Remark]:
    """Its time lies between those of the question and of the answer, more or less."""
    began, ended = patient.facts["clock"]
    ahead, behind = ended - patient.answered, patient.asked - began
    skew = max(ahead, behind)
    if patient.asked and skew > SKEW_SECONDS:
        told = f"{skew:.1f} s {'ahead of' if ahead > behind else 'behind'} this machine, or more"
        remedy = patient.on("chronyc makestep || systemctl restart systemd-timesyncd")
        yield "warning", told, f"at most {SKEW_SECONDS:.0f} s", remedy


def disk(patient: Patient, job: Job) -> Iterator[Remark]:
    """Room where the run is written, told of this machine only, and where processes scribble."""
    for place, free in patient.facts["free"].items():
        shared = place not in SCRATCH
        if free is None or shared and patient.name is not None:
            continue
        wanted = job.shared_bytes if shared else SCRATCH_BYTES
        if free < wanted:
            remedy = patient.on(f"df -h {place}; ls -lt {place}")
            if place == "/dev/shm":
                remedy = patient.on("mount -o remount,size=50% /dev/shm")
            severity = "error" if shared and free < LEAST_BYTES else "warning"
            told = f"{place}: {free / GIB:.1f} GiB free"
            yield severity, told, f"{wanted / GIB:.0f} GiB", remedy


def locks(patient: Patient, job: Job) -> Iterator[Remark]:
    """No build of an extension was killed: everybody who needs it later waits for ever."""
    for path, minutes in patient.facts["locks"]:
        if minutes > LOCK_MINUTES:
            told = f"{path} is {minutes:.0f} minutes old"
            wanted = "no lock of a build that has ended: later runs wait for it, silently"
            yield "error", told, wanted, patient.on(f"rm {shlex.quote(path)}")


def memory(patient: Patient, job: Job) -> Iterator[Remark]:
    """Something for each rank to live on."""
    free, wanted = patient.facts["memory"]["available"], (patient.slots or 1) * RANK_BYTES
    if 0 < free < wanted:
        told = f"{free / GIB:.1f} GiB available for {patient.slots or 1} ranks"
        remedy = patient.on("ps aux --sort -rss | head")
        yield "warning", told, f"{wanted / GIB:.0f} GiB", remedy
