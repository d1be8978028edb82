"""What is known about a soft prompt, in sentences: for a terminal, a node's text and the page."""

from hardprompts.softprompts.audit import Audit
from hardprompts.softprompts.geometry import NEAR, GeometryReport
from hardprompts.softprompts.prompt import SoftPrompt


def sentences(audit: Audit) -> list[str]:
    """What a person should know about a soft prompt, one fact a line."""
    prompt = audit.prompt
    tokens = f"{prompt.num_tokens} token{'s' * (prompt.num_tokens != 1)}"
    found = [
        f"{prompt.name or '(no name)'}: {tokens} for {encoder_widths(prompt)}",
        f"format {prompt.source_format or 'unknown'}; fits {' or '.join(prompt.families)}",
    ]
    if prompt.base_models:
        found.append(f"trained on {', '.join(prompt.base_models)}")
    if prompt.step is not None:
        found.append(f"training step {prompt.step}")
    if audit.geometry is None:
        found.append(
            f"median length of its tokens: {median_lengths(prompt)}; give a model to compare them with its own"
        )
    else:
        found += _compared(audit, audit.geometry)
    if audit.decoded is not None:
        kept = f"keeps {audit.decoded.faithfulness:.0%} of its effect ({audit.decoded.quantity})"
        if audit.decoded.held_out is not None:
            kept += f", held out {audit.decoded.held_out:.0%}"
        found.append(f"decoded by what it does: {audit.decoded.text!r} {kept}")
    return found + [f"{finding.level}: {finding.text}" for finding in audit.findings]


def encoder_widths(prompt: SoftPrompt) -> str:
    """The text encoders that it is for, and how wide their embeddings are."""
    return ", ".join(f"{name} ({width} wide)" for name, width in zip(prompt.encoders, prompt.widths, strict=True))


def median_lengths(prompt: SoftPrompt) -> str:
    """The median length (norm) of the tokens for each encoder."""
    return ", ".join(f"{name} {values.norm(dim=1).median():.3g}" for name, values in prompt.embeddings.items())


def _compared(audit: Audit, geometry: GeometryReport) -> list[str]:
    median = geometry.vocabulary_norms.median
    found = [
        f"{audit.encoder}: {geometry.norm_ratio:.1f} times as long as the model's own tokens (median {median:.3g})",
        f"{geometry.share_near:.0%} of its tokens have a word within {NEAR:.0f} degrees; of the model's own tokens, "
        f"{geometry.natural_share_near:.0%}",
    ]
    for number, token in enumerate(geometry.tokens, start=1):
        words = ", ".join(f"{near.text!r} {near.cosine:.2f}" for near in token.by_cosine)
        found.append(
            f"token {number}: length {token.norm:.3g}, {token.angle:.0f} degrees from the nearest word; {words}"
        )
    if audit.nearest is not None:
        note = "; so far away, words are known to keep little of its effect" if audit.is_far else ""
        if audit.robustness is not None:
            note = f"; they keep {audit.robustness.nearest_kept:.0%} of its effect on the {audit.robustness.quantity}"
        found.append(f"nearest words: {audit.nearest.text!r}{note}")
    return found
