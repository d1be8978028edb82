"""What to do where a device has too little memory."""

import torch


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
