"""What this machine has to calculate with: devices, their memory, and processors."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from hardprompts.errors import BackendError, SearchError


def is_out_of_memory(error: RuntimeError) -> bool:
    """True if an error says that memory ran out, on any device."""
    return (
        isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error) or "out of memory" in str(error)
    )


def release() -> None:
    """Gives back what torch holds in reserve on a GPU.

    To be called outside of the handler of the error, whose traceback holds on to tensors.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def default_device() -> torch.device:
    """CUDA where there is one, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def available_devices() -> list[str]:
    """The devices that this torch can calculate on, as `torch.device` spells them: "cpu", then "cuda:0", ..."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    xpu = [f"xpu:{index}" for index in range(torch.xpu.device_count())] if torch.xpu.is_available() else []
    return ["cpu", *cuda, *mps, *xpu]


def checked_device(device: torch.device | str | None) -> torch.device:
    """A device that is there; for None the default one.

    Raises:
        BackendError: torch knows no such device, or this machine has none.
    """
    if device is None:
        return default_device()
    there = available_devices()
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:  # a name that torch does not know, or something else than a name
        raise BackendError(f"unknown device {str(device)!r}; this torch sees {', '.join(there)}") from error
    if not is_available(chosen):
        raise BackendError(f"there is no device {str(device)!r} here; this torch sees {', '.join(there)}")
    if chosen.type not in ("cpu", "cuda", "mps", "xpu"):
        _try(chosen, torch.float32)
    return chosen


def is_available(device: torch.device | str) -> bool:
    """Whether this machine has such a device."""
    chosen = torch.device(device)
    # Of other types (an extension's own, "meta") torch alone knows whether they are there.
    return chosen.type not in ("cuda", "mps", "xpu") or _numbered(chosen) in available_devices()


def checked_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype:
    """A dtype that models can run in on a device; for None float32.

    Raises:
        BackendError: it is not one of torch's, not of floating point, narrower than 16 bits, or the device cannot
            calculate in it.
    """
    if dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype):
        named = getattr(torch, str(dtype), None)
        step = f"write {named}" if isinstance(named, torch.dtype) else "write torch.float16, say"
        raise BackendError(f"dtype must be a torch.dtype, got {dtype!r}; {step}")
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise BackendError(
            f"models run in float32, float16, bfloat16 or float64, not in {dtype}, in which no gradients are "
            "calculated; leave dtype out, or take torch.bfloat16 to save memory"
        )
    if dtype != torch.float32:
        _try(device, dtype)
    return dtype


def check_gradients() -> None:
    """Raises where no gradients can be taken, as under `torch.inference_mode()`; `torch.no_grad()` is lifted instead.

    Raises:
        SearchError: they cannot.
    """
    if torch.is_inference_mode_enabled():
        raise SearchError(
            "no gradients can be taken under torch.inference_mode(), and this method needs them; call it outside of "
            "that, or under torch.no_grad()"
        )


def _try(device: torch.device, dtype: torch.dtype) -> None:
    """Raises BackendError unless numbers of a dtype can be multiplied on a device."""
    try:
        float(torch.ones(2, 2, device=device, dtype=dtype).mm(torch.ones(2, 2, device=device, dtype=dtype)).sum())
    except Exception as error:  # whatever a torch without this device, or a driver, says of it
        said = " ".join(str(error).split())[:200]
        reason = "its memory is full" if isinstance(error, RuntimeError) and is_out_of_memory(error) else said
        raise BackendError(
            f"the device {str(device)!r} cannot calculate in {dtype}: {reason}; this torch sees "
            f"{', '.join(available_devices())}"
        ) from error


# --- between the host and a device --------------------------------------------------------


def to_host(*tensors: Tensor) -> list[Tensor]:
    """The tensors on the CPU, brought there together: the host waits for a device at each copy, and so only once.

    Args:
        tensors: all of one device; those of the CPU are given back as they are.
    """
    if not tensors or tensors[0].device.type == "cpu":
        return list(tensors)
    return _unpacked(_packed([tensor.detach() for tensor in tensors]).cpu(), tensors)


def to_device(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    """Tensors of the CPU on a device, in one copy that neither of the two waits for."""
    if not tensors or device.type == "cpu":
        return list(tensors)
    packed = _packed(tensors)
    # Only out of pinned memory does CUDA copy while the host goes on.
    packed = packed.pin_memory() if device.type == "cuda" else packed
    return _unpacked(packed.to(device, non_blocking=True), tensors)


def wait_for(device: torch.device) -> None:
    """Waits until a device has done what it was given, where time is measured."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def _packed(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of all tensors, those with the widest numbers first, so that each begins where its numbers may."""
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in sorted(tensors, key=_narrowness)]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _unpacked(packed: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    sizes = [tensor.numel() * tensor.element_size() for tensor in sorted(tensors, key=_narrowness)]
    parts = iter(packed.split(sizes))
    order = sorted(range(len(tensors)), key=lambda place: _narrowness(tensors[place]))
    found = {place: next(parts).view(tensors[place].dtype).reshape(tensors[place].shape) for place in order}
    return [found[place] for place in range(len(tensors))]


def _narrowness(tensor: Tensor) -> int:
    return -tensor.element_size()


def _numbered(device: torch.device) -> str:
    return "mps" if device.type == "mps" and not device.index else f"{device.type}:{device.index or 0}"


# --- processors ---------------------------------------------------------------------------


def available_cpus(root: Path = Path("/")) -> int:
    """The processors that this process may keep busy: those that it may run on, or fewer where a container has a quota.

    A quota of two and a half is two: a thread that is paused in the middle of its part keeps all others waiting.

    Args:
        root: where the system's files are.

    Source: the kernel's documentation of `cpu.max` (cgroup v2) and `cpu.cfs_quota_us` (v1). A group is bound by the
    quotas of those around it, too.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min([usable, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of the process's control group and of those around it, in processors."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        # A container sees its own group at the top, whatever its path outside is.
        around = [path.strip("/"), *map(str, PurePosixPath(path.strip("/")).parents)]
        if not controllers:
            for group in around:
                yield from _quota(root / "sys/fs/cgroup" / group / "cpu.max")
        elif "cpu" in controllers.split(","):
            for group in around:
                for mount in ("cpu", controllers):
                    folder = root / "sys/fs/cgroup" / mount / group
                    yield from _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _quota(*files: Path) -> Iterator[float]:
    """Of numbers in files, the first divided by the second; nothing, where there is no limit."""
    try:
        quota, period = " ".join(file.read_text(encoding="utf-8") for file in files).split()
    except (OSError, ValueError):
        return
    if quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0:  # not "max" or -1
        yield int(quota) / int(period)


@functools.cache
def keep_to_quota() -> None:
    """Lets torch use no more threads than `available_cpus`, once for a process; `OMP_NUM_THREADS` goes before it.

    torch knows which processors the process may run on, and nothing of a container's quota. Threads beyond that are
    paused by turns, and all others wait for them.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > available_cpus():
        torch.set_num_threads(available_cpus())


def use_threads(threads: int | None) -> None:
    """Sets how many threads torch uses for its calculations on the CPU; None: no more than the quota.

    Raises:
        ValueError: fewer than 1.
    """
    keep_to_quota()  # so that no later opening does it
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)


def busy_cpus() -> float:
    """How many processes wanted a processor on average over the last minute, those of others included; 0: unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows; or the system does not say
        return 0.0


def threads_advice() -> str:
    """One line where other processes are likely to slow several threads down; else "".

    To be asked for before this process has work of its own.
    """
    threads, cpus, busy = torch.get_num_threads(), available_cpus(), busy_cpus()
    if threads == 1 or "OMP_NUM_THREADS" in os.environ or busy + threads <= (os.cpu_count() or cpus) + 0.5:
        return ""
    return (
        f"other processes keep this machine busy (a load of {busy:.1f}), and {threads} threads wait for each other: "
        "--threads 1 may be faster"
    )
