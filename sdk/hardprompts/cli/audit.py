"""`hardprompts inspect`: what is in a soft-prompt file, in plain words and as a page."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardprompts.softprompts.audit import Audit
    from hardprompts.softprompts.geometry import GeometryReport


def lines(audit: "Audit") -> list[str]:
    """What a person should know, one fact a line."""
    prompt = audit.prompt
    named = prompt.name or "(no name)"
    encoders = [f"{name} {width} wide" for name, width in zip(prompt.encoders, prompt.widths, strict=True)]
    found = [
        f"{named}: {prompt.num_tokens} token{'s' * (prompt.num_tokens != 1)} for {', '.join(encoders)}",
        f"format {prompt.source_format}; fits {' or '.join(prompt.families)}",
    ]
    if prompt.base_models:
        found.append(f"trained on {', '.join(prompt.base_models)}")
    if prompt.step is not None:
        found.append(f"training step {prompt.step}")
    if audit.geometry is None:
        norms = [f"{name} {values.norm(dim=1).median():.3g}" for name, values in prompt.embeddings.items()]
        found.append(f"median length of its tokens: {', '.join(norms)}; --model compares them with a model's own")
    else:
        found += _compared(audit, audit.geometry)
    if audit.decoded is not None:
        kept = f"keeps {audit.decoded.faithfulness:.0%} of its effect ({audit.decoded.quantity})"
        if audit.decoded.held_out is not None:
            kept += f", held out {audit.decoded.held_out:.0%}"
        found.append(f"decoded by what it does: {audit.decoded.text!r} {kept}")
    return found + [f"{finding.level}: {finding.text}" for finding in audit.findings]


def _compared(audit: "Audit", geometry: "GeometryReport") -> list[str]:
    median = geometry.vocabulary_norms.median
    found = [
        f"{audit.encoder}: {geometry.norm_ratio:.1f} times as long as the model's own tokens (median {median:.3g})",
        f"{geometry.share_near:.0%} of its tokens have a word within 30 degrees; of the model's own tokens, "
        f"{geometry.natural_share_near:.0%}",
    ]
    for index, token in enumerate(geometry.tokens, start=1):
        words = ", ".join(f"{near.text!r} {near.cosine:.2f}" for near in token.by_cosine)
        found.append(f"token {index}: length {token.norm:.3g}, {token.angle:.0f} degrees from any; {words}")
    if audit.nearest is not None:
        note = "; so far away, words are known to keep little of what it does" if audit.is_far else ""
        if audit.robustness is not None:
            note = f"; they keep {audit.robustness.nearest_kept:.0%} of its effect on the {audit.robustness.quantity}"
        found.append(f"nearest words: {audit.nearest.text!r}{note}")
    return found
