"""What the page shows of prompts, as HTML and SVG: everything that is data is escaped."""

import html
import itertools
from collections.abc import Sequence

from PIL import Image

from hardprompts.applications.evidence import FIGURES, HEADINGS, MEANING, columns, evidence_rows, truth_note
from hardprompts.images.showing import jpeg_address, picture_with_regions
from hardprompts.prompts import HardPrompt, HistoryPoint, PromptTemplate, fluency_note, notes_on
from hardprompts.search.protocol import StopReason
from hardprompts.search.results import BY_HAND
from hardprompts.wording import WordEvidence

#: The colors of the lines of a curve, readable on black and white.
COLORS = ("#0e7490", "#b45309", "#7c3aed", "#15803d", "#be123c", "#4d7c0f", "#1d4ed8", "#a21caf")
WIDTH, HEIGHT = 400, 130
SIDE = 96

#: The longer side of a picture with regions, in pixels.
PLACE_SIDE = 512

#: The longer side of a picture that a generator drew, in pixels.
DRAWN_SIDE = 320


def prompt_html(prompt: HardPrompt, note: str = "") -> str:
    """The prompt with its tokens in two shades, its score, and how fluent it is."""
    template = PromptTemplate(prompt.template)
    spans = []
    for index, (piece, gap) in enumerate(prompt.pieces()):
        title = f"token {prompt.token_ids[index]}" if index < len(prompt.token_ids) else ""
        spans.append(
            f'<span class="hp-token hp-{index % 2}" title="{title}">{html.escape(piece)}</span>{html.escape(gap)}'
        )
    score = f"{html.escape(prompt.score_unit)} <b>{prompt.score:.3f}</b>"
    told = " &middot; ".join(part for part in (score, fluency_note(prompt), html.escape(note)) if part)
    return (
        f'<div class="hp-prompt"><code>{html.escape(template.prefix)}{"".join(spans)}{html.escape(template.suffix)}'
        f"</code><small>{told}</small></div>"
    )


def ended(prompt: HardPrompt) -> str:
    """How a search went, in one line; that there was none, for somebody's own words."""
    if prompt.method == BY_HAND:
        return "your own words; nothing was searched"
    seconds = prompt.provenance.get("seconds", 0.0)
    sentence = "you stopped it" if prompt.stop_reason == "cancelled" else StopReason(prompt.stop_reason).sentence
    drawn = prompt.provenance.get("pictures")
    cost = f"{prompt.evaluations:,} evaluations" if drawn is None else f"{drawn:,} pictures"
    return f"{seconds:.1f} s, {cost}, seed {prompt.seed}; {sentence}"


def contributions_html(prompt: HardPrompt) -> str:
    """What each token contributes, as bars."""
    if len(prompt.attributions) != len(prompt.tokens) or not prompt.tokens:
        return ""
    most = max(map(abs, prompt.attributions)) or 1.0
    rows = []
    for index, (token, value) in enumerate(zip(prompt.tokens, prompt.attributions, strict=True)):
        width = round(100 * abs(value) / most)
        kind = "hp-bar" if value >= 0 else "hp-bar hp-against"
        rows.append(
            f'<tr><th scope="row"><span class="hp-token hp-{index % 2}">{html.escape(token)}</span></th>'
            f'<td><div class="{kind}" style="width:{width}%"></div></td><td class="hp-number">{value:+.3f}</td></tr>'
        )
    caption = "What each token contributes: the score that is lost without it"
    return f'<table class="hp-words"><caption>{caption}</caption>{"".join(rows)}</table>'


def evidence_html(prompt: HardPrompt) -> str:
    """What is known of each word, as a table with what its figures mean; "" where nothing is."""
    if not prompt.evidence:
        return ""
    rows = evidence_rows(prompt)
    kept = columns(rows)

    def line(cells: Sequence[str], tag: str) -> str:
        written = (
            f"<{tag}{' class=hp-figure' if place in FIGURES else ''}>{html.escape(cells[place])}</{tag}>"
            for place in kept
        )
        return f"<tr>{''.join(written)}</tr>"

    lines = [line(HEADINGS, "th"), *(line(row, "td") for row in rows)]
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in (truth_note(prompt), MEANING))
    return f'<div class="hp-evidence"><table>{"".join(lines)}</table>{notes}</div>'


def place_html(picture: Image.Image, evidence: Sequence[WordEvidence]) -> str:
    """A picture with the regions of words."""
    address = jpeg_address(picture_with_regions(picture, evidence, PLACE_SIDE), PLACE_SIDE)
    names = html.escape(", ".join(one.phrase for one in evidence))
    return f'<img class="hp-place" alt="where {names} fits best" src="{address}">'


def drawn_html(images: Sequence[Image.Image], drawn: Sequence[tuple[Image.Image, str]]) -> str:
    """What a generator drew of a prompt beside the images that it is of, each with its caption; "" for nothing."""
    if not drawn:
        return ""
    shown = [*((image, "the image") for image in images[:1]), *drawn]
    figures = (
        f'<figure><img alt="{html.escape(caption)}" src="{jpeg_address(image, DRAWN_SIDE)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for image, caption in shown
    )
    return f'<div class="hp-drawn">{"".join(figures)}</div>'


def line_of(history: Sequence[HistoryPoint]) -> list[tuple[float, float]]:
    """(seconds, best score so far): what several searches made one after the other begins anew in their history."""
    best = itertools.accumulate((point.score for point in history), max)
    return [(point.seconds, score) for point, score in zip(history, best, strict=True)]


def curve_svg(lines: Sequence[Sequence[tuple[float, float]]], until: float) -> str:
    """The best score against seconds, a line for each search; "" before there is anything."""
    points = [point for line in lines for point in line]
    if not points:
        return ""
    end = max(until, *(seconds for seconds, _ in points), 1e-3)
    low, high = min(score for _, score in points), max(score for _, score in points)
    if high - low < 1e-3:
        low, high = low - 5e-4, high + 5e-4

    def place(seconds: float, score: float) -> str:
        return f"{44 + (WIDTH - 54) * seconds / end:.1f},{10 + (HEIGHT - 34) * (high - score) / (high - low):.1f}"

    drawn = []
    for index, line in enumerate(line for line in lines if line):
        steps = [place(*line[0])]
        for before, after in itertools.pairwise(line):
            steps += [place(after[0], before[1]), place(*after)]
        steps.append(place(end, line[-1][1]))
        drawn.append(f'<polyline points="{" ".join(steps)}" stroke="{COLORS[index % len(COLORS)]}"/>')
    return (
        f'<svg class="hp-curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="score of the best prompt: from {low:.3f} to {high:.3f} in {end:.1f} seconds">'
        f'<path d="M44 10V{HEIGHT - 24}H{WIDTH - 10}"/>{"".join(drawn)}'
        f'<text x="40" y="16" text-anchor="end">{high:.3f}</text>'
        f'<text x="40" y="{HEIGHT - 24}" text-anchor="end">{low:.3f}</text>'
        f'<text x="44" y="{HEIGHT - 8}">0</text>'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 8}" text-anchor="end">{end:.1f} s</text></svg>'
    )


def status_html(text: str, busy: bool = False) -> str:
    """A line that screen readers say."""
    return f'<div class="hp-status{" hp-busy" * busy}" role="status">{html.escape(text)}</div>'


def error_html(text: str) -> str:
    """What went wrong, in one line."""
    return f'<div class="hp-status hp-error" role="alert">{html.escape(text)}</div>'


def notices_html(prompts: Sequence[HardPrompt], notices: Sequence[str] = ()) -> str:
    """That a prompt is empty, what was left out, and what else their user is to know; "" if there is nothing."""
    lines = notes_on(prompts)
    lines += dict.fromkeys(notices)
    said = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="hp-list hp-notices" role="note">{said}</ul>' if said else ""


def list_html(lines: Sequence[str], title: str = "") -> str:
    """Lines as a list."""
    if not lines:
        return ""
    head = f"<p><b>{html.escape(title)}</b></p>" if title else ""
    return f'{head}<ul class="hp-list">{"".join(f"<li>{html.escape(line)}</li>" for line in lines)}</ul>'


def thumbnail(image: Image.Image, name: str) -> str:
    """A small picture that is part of the page."""
    named = f'alt="{html.escape(name)}" title="{html.escape(name)}"'
    return f'<img class="hp-thumb" {named} src="{jpeg_address(image, 2 * SIDE)}">'


def for_uis(prompt: HardPrompt) -> tuple[str, str, str, str]:
    """What is copied for ComfyUI, A1111, diffusers and as JSON."""
    diffusers = f"image = pipe(prompt={prompt.filled!r}).images[0]"
    pasted = [prompt.escaped("comfyui"), prompt.escaped("a1111")]
    if aside := _set_aside(prompt):
        pasted = [f"{text} {aside}" for text in pasted]
    return pasted[0], pasted[1], diffusers, prompt.to_json()


def _set_aside(prompt: HardPrompt) -> str:
    """The files that a long prompt named, as <lora:name:0.8>."""
    markup = getattr(prompt, "markup", None)
    return " ".join(markup.set_aside) if markup is not None else ""
