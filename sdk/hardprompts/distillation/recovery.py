"""From a denoiser's conditioning back to the text that it comes from: exact where the text encoder is causal."""

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.devices import check_gradients
from hardprompts.diffusion.features import backend_of
from hardprompts.distillation.states import ContextStates
from hardprompts.encoders import Backend, ConditioningEncoder, load_backend
from hardprompts.errors import BackendError, NonFiniteError, SearchError
from hardprompts.prompts import HardPrompt
from hardprompts.search.protocol import StopReason

#: Batches of tokens that are taken in the order of the gradient's promise; the others follow in that of their ids.
GUIDED_BATCHES = 8

#: Random tokens whose distance from a state is the unit of distances there.
PROBES = 8

#: A token this near, as a share of the tolerance, is the one: nothing else is tried.
CERTAIN = 0.1


def text_from_conditioning(
    model: "str | Backend | ConditioningEncoder",
    conditioning: Float[Tensor, "..."],
    *,
    tolerance: float = 0.05,
    batch_size: int = 256,
    deadline: float | None = None,
    max_evaluations: int | None = None,
) -> HardPrompt:
    """The text that a conditioning tensor was made from, token by token.

    In a causal text encoder the state at a place depends on the tokens up to there only. So the first token is
    the one whose state is the tensor's, then the second, and so on, until the state is that of the end of the
    text. Tokens are tried in batches, those first that the gradient points to, and all if need be; on a CPU
    that takes seconds for a small model and minutes a token for a large one.

    Args:
        model: a text encoder with states, or a text-to-image model, that the tensor comes from.
        conditioning: (places, states) or (1, places, states) at the model's full context, as `prompt_embeds`
            of Stable Diffusion or a ComfyUI CONDITIONING. Half precision will do.
        tolerance: how far a state may be from the tensor's, as a share of the distance of random tokens.
        batch_size: tokens tried at once.
        deadline, max_evaluations: seconds and passes for the whole call. Where they do not suffice for the whole text,
            its beginning is returned, and `left_out` says so; a keyboard interrupt does the same.

    Returns:
        The prompt, whose score is the share of the tensor's squared distance from an empty text's that it
        explains. Text encoders read upper and lower case alike, so this is the text up to case and spaces.

    Raises:
        BackendError: the text encoder is not causal, so that a state tells of all tokens at once, or has no states.
        ValueError: the tensor has another shape than the model's.
        NonFiniteError: it holds NaN or infinity.
        SearchError: no text gives these states: they were weighted, mixed or joined, or are of another model
            or layer; or no text is read as the tokens that do.

    Source: SipIt, arXiv 2510.15511. Deviation: every token is tried before recovery is given up.
    """
    opened = load_backend(model) if isinstance(model, str) else model
    backend = opened if isinstance(opened, Backend) else backend_of(opened)
    states = ContextStates.of(backend)
    if not states.causal:
        raise BackendError(
            f"the text encoder of {backend.name} sees every token at every place, so its states cannot be taken apart "
            "token by token; decode them with PromptDistiller(...).distill(..., match='hidden_states') instead"
        )
    table = states.vocabulary.table
    with torch.no_grad():
        empty = states(table.new_zeros(1, 0, table.shape[1]))[0].float()
    target = _checked(conditioning, empty, backend.name).to(empty)
    allowance = Allowance(deadline, max_evaluations)
    recovery = _Recovery(states, target, tolerance, batch_size, allowance)
    ids: list[int] = []
    whole_text = False
    with allowance.reporting():
        while not (whole_text := recovery.ends(ids)):
            token = recovery.next_token(ids)
            if token is None:
                break
            ids.append(token)
    with torch.no_grad():
        found = states(states.vocabulary.embed(_row(ids, table.device)))[0].float()
    allowance.leave_out("end of the text", int(whole_text), 1)
    missed, whole = float((found - target).square().sum()), float((empty - target).square().sum())
    explained = 1 - missed / whole if whole > 0 and ids else 1.0
    text = states.vocabulary.decode(ids) if ids else ""
    if ids and not states.vocabulary.survives_round_trip(ids):
        raise SearchError(
            f"the tokens {ids} give these states, but their text {text!r} is read as others "
            f"({states.vocabulary.encode(text)}); the tensor was made from tokens, not from a text"
        )
    if whole_text and not explained >= 1 - tolerance:
        raise SearchError(
            f"the states are those of {text!r} up to its end and others behind it ({explained:.2f} of the tensor is "
            f"explained): it is padded in another way than {backend.name} does, or joined from several texts"
        )
    return HardPrompt(
        text, tuple(ids), explained, model=backend.name, method="causal recovery",
        score_unit="share of the conditioning explained", tokens=states.vocabulary.pieces(ids),
        evaluations=allowance.evaluations, left_out=tuple(allowance.left_out),
        stop_reason=_reason(allowance, whole_text),
    )  # fmt: skip


def _reason(allowance: Allowance, whole_text: bool) -> str:
    """Why a recovery stopped."""
    if whole_text:
        return StopReason.CONVERGED.value
    return allowance.stopped or (StopReason.DEADLINE if allowance.is_over else StopReason.MAX_EVALUATIONS).value


class _Recovery:
    """Token by token, as long as the tensor can be explained."""

    def __init__(
        self, states: ContextStates, target: Tensor, tolerance: float, batch_size: int, allowance: Allowance
    ) -> None:
        if batch_size < 1 or not 0 < tolerance < 1:
            raise ValueError(f"batch_size must be at least 1 and tolerance in (0, 1), got {batch_size} and {tolerance}")
        self.states, self.target, self.tolerance, self.batch_size = states, target, tolerance, batch_size
        self.allowance = allowance

    def ends(self, ids: list[int]) -> bool:
        """True if the text is at its end behind these tokens."""
        place = self._place(ids)
        if len(ids) >= self.states.max_tokens:
            return True
        with torch.no_grad():
            row = self.states(self.states.vocabulary.embed(_row(ids, self.target.device)))
            self.allowance.spend(1)
            distance = (row[0, place].float() - self.target[place]).norm()
        return float(distance) <= self.tolerance * self._unit(ids)

    def next_token(self, ids: list[int]) -> int | None:
        """The token behind these; None where there is no room to try all that may be it.

        Raises:
            SearchError: none gives the tensor's state.
        """
        vocabulary, unit = self.states.vocabulary, self._unit(ids)
        distances = torch.full((len(vocabulary),), torch.inf, device=self.target.device)
        slot = vocabulary.table.float().mean(dim=0).to(vocabulary.table)
        order = torch.arange(len(vocabulary), device=self.target.device)
        best: int | None = None
        for batch in range(-(-len(vocabulary) // self.batch_size)):
            if not self.allowance.affords(self.batch_size + 2):
                return best if best is not None and float(distances[best]) <= self.tolerance * unit else None
            if batch < GUIDED_BATCHES:
                promise = self._promise(ids, slot).masked_fill(distances.isfinite(), torch.inf)
                order = promise.argsort()
            chosen = order[torch.isinf(distances[order])][: self.batch_size]
            distances[chosen] = self._distances(ids, chosen)
            best = int(distances.argmin())
            if float(distances[best]) <= CERTAIN * self.tolerance * unit:
                break
            slot = vocabulary.embed(torch.tensor(best, device=self.target.device))
        assert best is not None, "a vocabulary has tokens"
        if not float(distances[best]) <= self.tolerance * unit:
            known = f" behind {vocabulary.decode(ids)!r}" if ids else ""
            raise SearchError(
                f"no token{known} gives the tensor's state at token {len(ids) + 1}: the nearest, "
                f"{vocabulary.decode([best])!r}, is {float(distances[best]) / unit:.2f} of the distance of random ones "
                "away; the tensor was weighted, mixed or joined, or is of another model or layer"
            )
        return best

    def _place(self, ids: list[int]) -> int:
        return self.states.first_place + len(ids)

    def _unit(self, ids: list[int]) -> float:
        """How far random tokens are from the tensor's state, the median."""
        drawn = self.states.vocabulary.sample((PROBES,), torch.Generator().manual_seed(0))
        return float(self._distances(ids, drawn).median().clamp_min(1e-12))

    def _distances(self, ids: list[int], tokens: Tensor) -> Float[Tensor, " tokens"]:
        vocabulary, place = self.states.vocabulary, self._place(ids)
        rows = torch.cat([_row(ids, tokens.device).expand(len(tokens), -1), tokens.unsqueeze(1)], dim=1)
        with torch.no_grad():
            found = self.states(vocabulary.embed(rows))[:, place].float()
        self.allowance.spend(len(rows))
        distances: Tensor = (found - self.target[place]).norm(dim=1).nan_to_num(torch.inf)
        return distances

    def _promise(self, ids: list[int], slot: Tensor) -> Float[Tensor, " vocab"]:
        """What each token in the slot adds to the squared distance, to first order; lower is better."""
        check_gradients()
        vocabulary, place = self.states.vocabulary, self._place(ids)
        before = vocabulary.embed(_row(ids, slot.device))
        with torch.enable_grad():
            leaf = slot.detach().clone().requires_grad_()
            found = self.states(torch.cat([before, leaf[None, None]], dim=1))[0, place].float()
            (grad,) = torch.autograd.grad((found - self.target[place]).square().sum(), leaf)
        self.allowance.spend(2)
        promise: Tensor = vocabulary.table.float() @ grad.float()
        return promise


def _row(ids: list[int], device: torch.device) -> Tensor:
    return torch.tensor([ids], dtype=torch.long, device=device)


def _checked(conditioning: Tensor, empty: Tensor, model: str) -> Float[Tensor, "places states"]:
    tensor = conditioning.detach()
    tensor = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    if tensor.shape != empty.shape or not tensor.is_floating_point():
        raise ValueError(
            f"a conditioning of {model} is {tuple(empty.shape)} of floating point, (places, states), got "
            f"{tuple(conditioning.shape)} of {conditioning.dtype}"
        )
    if not tensor.isfinite().all():
        raise NonFiniteError("the conditioning holds NaN or infinity; save it again, in float32")
    return tensor.float()
