"""What is wrong with a network that is handed in: weights that are not there, or that no gradients can flow through."""

from torch import Tensor, nn

from hardprompts.errors import BackendError


def check_weights(network: nn.Module, name: str) -> None:
    """Raises unless all weights of a network are in memory, on one device, and can be calculated with.

    Args:
        name: of the model, for the message.

    Raises:
        BackendError: some are on the meta device, on several devices, or made under `torch.inference_mode()`.
    """
    parameters = dict(network.named_parameters())
    meta = next((key for key, value in parameters.items() if value.is_meta), "")
    if meta:
        raise BackendError(
            f"{name}: the weights {meta!r} are not in memory (they are on the meta device): they were never loaded, or "
            "accelerate keeps them on the disk; load the model without device_map and move it to one device"
        )
    devices = sorted({str(value.device) for value in parameters.values()})
    # Where accelerate has placed the weights, it takes the inputs from one device to the next.
    if len(devices) > 1 and not getattr(network, "hf_device_map", None):
        raise BackendError(
            f"{name}: its weights are on several devices ({', '.join(devices)}); move all to one: model.to(device)"
        )
    made = next((key for key, value in parameters.items() if value.is_inference()), "")
    if made:
        raise BackendError(
            f"{name}: the weights {made!r} were made under torch.inference_mode(), so no gradients can flow through "
            "them; load the model outside of it"
        )


def check_finite(network: nn.Module, name: str, *outputs: Tensor) -> None:
    """Raises where what a network gives holds NaN or infinity.

    Raises:
        BackendError: it does; the message says whether the weights do, too.
    """
    if all(bool(output.isfinite().all()) for output in outputs):
        return
    bad = next((key for key, value in network.named_parameters() if not value.isfinite().all()), "")
    if bad:
        raise BackendError(f"{name}: the weights {bad!r} hold NaN or infinity; get the files of the model again")
    raise BackendError(
        f"{name}: what it makes of a text is NaN or infinite, though its weights are not: float16 overflows in many "
        "models; load it with dtype=torch.bfloat16 or torch.float32"
    )
