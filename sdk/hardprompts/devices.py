"""What to do where a device has too little memory."""

import torch

from hardprompts.errors import BackendError


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
    except RuntimeError as error:
        raise BackendError(f"unknown device {str(device)!r}; this torch sees {', '.join(there)}") from error
    # Of other types (an extension's own, "meta") torch alone knows whether they are there.
    if chosen.type in ("cuda", "mps", "xpu") and _numbered(chosen) not in there:
        raise BackendError(f"there is no device {str(device)!r} here; this torch sees {', '.join(there)}")
    return chosen


def _numbered(device: torch.device) -> str:
    return "mps" if device.type == "mps" and not device.index else f"{device.type}:{device.index or 0}"
