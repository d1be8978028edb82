"""What a pipeline's scheduler says of noise, as a `NoiseSchedule`."""

from typing import Any

from hardprompts.errors import BackendError
from hardprompts.noise import NoiseSchedule, Prediction

#: The `prediction_type`s of schedulers whose model is trained on a variance-preserving process.
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")


def schedule_of(scheduler: Any) -> NoiseSchedule:
    """The noise that a scheduler's model was trained on, and what it predicts.

    How a scheduler samples (its solver, its spacing, its time shift) makes no difference.

    Raises:
        BackendError: a scheduler whose model sees noise in another way, such as EDM's (Playground 2.5).
    """
    kind, config = type(scheduler).__name__, scheduler.config
    prediction = str(config.get("prediction_type", ""))
    if hasattr(scheduler, "precondition_inputs") or "sigma_data" in config:
        raise _not_covered(kind, "its model is preconditioned as in EDM")
    flow = prediction == "flow_prediction" or bool(config.get("use_flow_sigmas", False)) or kind.startswith("FlowMatch")
    if flow:
        if config.get("invert_sigmas", False):
            raise _not_covered(kind, "its noise levels run the other way (invert_sigmas)")
        return NoiseSchedule.flow(int(config.num_train_timesteps))
    for known in PREDICTIONS:
        if hasattr(scheduler, "alphas_cumprod") and prediction == known:
            return NoiseSchedule.variance_preserving(scheduler.alphas_cumprod, known)
    raise _not_covered(kind, f"prediction_type={prediction!r}")


def _not_covered(kind: str, reason: str) -> BackendError:
    return BackendError(
        f"the scheduler {kind} is not covered ({reason}); covered are those with alphas_cumprod that predict "
        f"{', '.join(PREDICTIONS)}, and flow-matching ones. Use match='clip', or a scheduler that the model also "
        "supports: pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
    )
