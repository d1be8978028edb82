"""The audit of a soft-prompt file as one web page that stands alone: no scripts, nothing loaded, to read and to print.

All that comes from the file is data: it is escaped, control characters and marks that turn the writing direction are
shown as escapes, and the page's own policy forbids whatever might still slip through.
"""

import html
from collections.abc import Sequence

import torch

from hardprompts.errors import printable
from hardprompts.softprompts.audit import LONGEST_SHARE, Audit, Decoded, FileFacts, Finding
from hardprompts.softprompts.geometry import NEAR, GeometryReport, SoftToken
from hardprompts.softprompts.plots import curve_svg, histogram_svg
from hardprompts.softprompts.prompt import SoftPrompt
from hardprompts.softprompts.robustness import Histogram, RobustnessReport, Spread

#: Rows of a table, entries of metadata and soft prompts of a file that a page shows.
MAX_ROWS, MAX_METADATA, MAX_PROMPTS = 80, 24, 16

#: Tokens of a soft prompt that are compared with each other.
MAX_COMPARED = 512

#: Letters of one text from a file that a page shows.
MAX_TEXT = 300

STYLE = """
:root{color-scheme:light dark;--paper:#fcfcfa;--ink:#1d1d1b;--faint:#6b6a65;--rule:#dddbd3;--card:#f3f2ed;
--soft:#c2410c;--natural:#4b7fa8;--fine:#2e7d4f;--note:#8a6d00;--warning:#b3261e}
@media(prefers-color-scheme:dark){:root{--paper:#171715;--ink:#eceae3;--faint:#a09d94;--rule:#3a3934;--card:#211f1c;
--soft:#fb923c;--natural:#7fb2d9;--fine:#6fce97;--note:#e0bd45;--warning:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:62rem;margin:0 auto;padding:1.2rem 1rem 4rem}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.4rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--rule)}
h3{font-size:.95rem;margin:0 0 .3rem}
p{margin:.4rem 0;max-width:46rem}
small,.faint{color:var(--faint);font-size:.85rem}
bdi,code{overflow-wrap:anywhere}
code,.words{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.9em}
.verdict{border-left:.4rem solid var(--level);background:var(--card);padding:.8rem 1rem;font-size:1.1rem;
border-radius:0 .4rem .4rem 0;max-width:none}
.fine{--level:var(--fine)}.note{--level:var(--note)}.warning{--level:var(--warning)}
ul.findings{list-style:none;padding:0;margin:.8rem 0}
.findings li{border-left:.25rem solid var(--level);padding:.1rem .7rem;margin:.5rem 0;overflow-wrap:anywhere}
.findings b{color:var(--level);text-transform:uppercase;font-size:.72rem;letter-spacing:.06em;margin-right:.5rem}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.25rem 1rem;margin:.6rem 0}
dt{color:var(--faint)}dd{margin:0;min-width:0;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;margin:.8rem 0}
.tile{background:var(--card);border-radius:.4rem;padding:.7rem .9rem}
.tile b{display:block;font-size:1.7rem;line-height:1.2;font-variant-numeric:tabular-nums}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:1rem 1.6rem;margin:1rem 0}
figure{margin:0}svg{display:block;width:100%;height:auto}
figcaption{color:var(--faint);font-size:.85rem}
svg text{font:11px system-ui,sans-serif;fill:var(--faint)}
.start{text-anchor:start}.middle{text-anchor:middle}.end{text-anchor:end}
.grid{stroke:var(--rule);stroke-width:1}
rect.natural{fill:var(--natural)}rect.soft,circle.soft{fill:var(--soft)}
.band{fill:var(--natural);opacity:.22}
.line{fill:none;stroke-width:2.2}.line.natural{stroke:var(--natural);stroke-dasharray:5 3}.line.soft{stroke:var(--soft)}
.key{display:inline-block;width:.8em;height:.8em;border-radius:.15em;margin:0 .3em 0 .9em;vertical-align:-.08em}
.key.soft{background:var(--soft)}.key.natural{background:var(--natural)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;font-size:.82rem;color:var(--faint);white-space:nowrap}
th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
td.number,th.number{text-align:right}
.word{white-space:nowrap;margin-right:.7rem;display:inline-block}
.word i{font-style:normal;color:var(--faint);font-size:.8em;margin-left:.25em}
blockquote{margin:.6rem 0;padding:.8rem 1rem;background:var(--card);border-radius:.4rem;overflow-wrap:anywhere}
@media(max-width:34rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}
table.tokens thead{display:none}table.tokens tr{display:block;border-bottom:1px solid var(--rule);padding:.4rem 0}
table.tokens td{display:inline-block;border:0;padding:0 .8rem 0 0}
table.tokens td.words{display:block}
td[data-label]::before{content:attr(data-label) " ";color:var(--faint);font-size:.8rem}}
@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--faint:#444;--rule:#bbb;--card:#f3f3f3;--soft:#b45309;
--natural:#33658a;--fine:#14532d;--note:#713f12;--warning:#7f1d1d}
body{font-size:10.5pt}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
h2{break-after:avoid}figure,.tile,tr,blockquote{break-inside:avoid}}
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render_report(file: FileFacts, audits: Sequence[Audit]) -> str:
    """The page about a file, and all soft prompts in it, as HTML.

    Raises:
        ValueError: there is no audit.
    """
    if not audits:
        raise ValueError("a report needs the audit of at least one soft prompt, and there is none")
    shown = audits[:MAX_PROMPTS]
    parts = [_section(file, audit, first=number == 0) for number, audit in enumerate(shown)]
    if len(audits) > len(shown):
        names = ", ".join(_text(audit.prompt.name) for audit in audits[len(shown) :][:200])
        parts.append(f"<h2>{len(audits) - len(shown)} more soft prompts in this file</h2><p>{names}</p>")
    return _page(file, "".join(parts))


def render_refusal(file: FileFacts, reason: str) -> str:
    """The page about a file that was not read, and why, as HTML."""
    body = (
        f"{_title(file.name)}{_verdict(Finding('warning', 'It was refused, and nothing in it was run.'))}"
        f"<blockquote>{_text(reason, 2000)}</blockquote>{_facts(_file_rows(file))}"
    )
    return _page(file, body)


def _page(file: FileFacts, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>Audit of {_escaped(file.name)}</title><style>{STYLE}</style></head><body><main>{body}"
        "<p class='faint'>Made by hardprompts. Nothing in the file was run, and this page loads nothing.</p>"
        "</main></body></html>\n"
    )


# --- sections -----------------------------------------------------------------------------


def _section(file: FileFacts, audit: Audit, first: bool) -> str:
    prompt = audit.prompt
    parts = [_title(prompt.name or file.name, small=not first), _verdict(audit.verdict), _findings(audit.findings)]
    rows = [("trigger", _text(prompt.name) if prompt.name else "none")]
    rows += [("fits", _text(" or ".join(prompt.families)))]
    encoders = ", ".join(f"{name} ({width} wide)" for name, width in zip(prompt.encoders, prompt.widths, strict=True))
    rows += [("tokens", str(prompt.num_tokens)), ("text encoders", _text(encoders))]
    rows += [("format", _text(prompt.source_format or "unknown"))]
    if audit.dtypes:
        rows.append(("stored as", _text(", ".join(audit.dtypes))))
    if prompt.base_models:
        rows.append(("trained on", _text(", ".join(prompt.base_models))))
    if prompt.step is not None:
        rows.append(("training step", str(prompt.step)))
    norms = ", ".join(f"{name} {values.norm(dim=1).median():.3g}" for name, values in prompt.embeddings.items())
    rows.append(("median length", _text(norms)))
    if audit.model:
        rows.append(("compared with", _text(f"{audit.model} ({audit.encoder})")))
    parts.append(f"<h2>What it is</h2>{_facts([*rows, *(_file_rows(file) if first else [])])}{_metadata(audit)}")
    if audit.decoded is not None:
        parts.append(_decoded(audit.decoded))
    if audit.geometry is None:
        parts.append(
            "<h2>Distance from natural language</h2><p>Not measured: without a model there are no words to compare "
            f"with. Give one with <code class='word'>--model</code>.</p>{_by_itself(prompt)}"
        )
    else:
        parts += [_distance(audit.geometry, audit.spread), _neighbors(audit)]
    if audit.robustness is not None:
        parts.append(_robustness(audit.robustness))
    return "".join(parts)


def _by_itself(prompt: SoftPrompt) -> str:
    """What can be told of the embeddings without any words: their lengths, and how alike they are."""
    rows = []
    for encoder, values in prompt.embeddings.items():
        lengths = values.norm(dim=1)
        told = f"lengths from {lengths.min():.3g} to {lengths.max():.3g}"
        some = torch.nn.functional.normalize(values[:MAX_COMPARED], dim=1)
        if len(some) > 1:
            alike = (some @ some.T).fill_diagonal_(-1).max()
            told += f"; the two most alike tokens have a cosine of {alike:.2f}"
        rows.append((_text(encoder), told))
    return _facts(rows)


def _title(name: str, small: bool = False) -> str:
    return f"<h2>{_text(name)}</h2>" if small else f"<small>Audit of a soft prompt</small><h1>{_text(name)}</h1>"


def _verdict(finding: Finding) -> str:
    return f'<p class="verdict {finding.level}">{_text(finding.text, 1000)}</p>'


def _findings(findings: Sequence[Finding]) -> str:
    items = "".join(
        f'<li class="{finding.level}"><b>{finding.level}</b>{_text(finding.text, 1000)}</li>' for finding in findings
    )
    return f'<ul class="findings">{items}</ul>' if items else ""


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values that are escaped already."""
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _file_rows(file: FileFacts) -> list[tuple[str, str]]:
    rows = [("file", _text(file.name))]
    if file.sha256:
        rows += [("size", f"{file.size:,} bytes"), ("SHA-256", f"<code>{_escaped(file.sha256)}</code>")]
    return rows


def _metadata(audit: Audit) -> str:
    values = audit.prompt.metadata
    if not values:
        return ""
    rows = "".join(
        f"<tr><td>{_text(key, 80)}</td><td>{_text(value)}</td></tr>"
        for key, value in list(values.items())[:MAX_METADATA]
    )
    more = f"<p class='faint'>{len(values) - MAX_METADATA} more.</p>" if len(values) > MAX_METADATA else ""
    return f"<h3>Stored beside it</h3><div class='scroll'><table>{rows}</table></div>{more}"


def _decoded(decoded: Decoded) -> str:
    held_out = "" if decoded.held_out is None else f" and {decoded.held_out:.0%} where the search did not look"
    return (
        f"<h2>What it does, in words</h2><blockquote class='words'>{_text(decoded.text, 4000)}</blockquote>"
        f"<p>This prompt makes the model do the same, as far as words can: it keeps <b>{decoded.faithfulness:.0%}</b> "
        f"of the soft prompt's effect ({_text(decoded.quantity)}){held_out}. All of it would be 100%; no prompt, or "
        "words at random, keep 0%.</p>"
    )


def _distance(geometry: GeometryReport, spread: Spread | None) -> str:
    ranks = sorted(token.norm_rank for token in geometry.tokens)
    rank = ranks[len(ranks) // 2]
    cosines = sorted(token.by_cosine[0].cosine for token in geometry.tokens)
    natural = 0.0 if spread is None else _median_of_bins(spread)
    beside = (
        f"of words with their nearest other word: {natural:.2f}" if spread is not None else "1 is the same direction"
    )
    near = sum(token.angle <= NEAR for token in geometry.tokens)
    tiles = (
        (
            "Length",
            f"{geometry.norm_ratio:.1f} times",
            f"the model's own tokens; longer than {_share(rank)} of them (medians)",
        ),
        ("Nearest word", f"{cosines[len(cosines) // 2]:.2f}", f"cosine, the median of its tokens; {beside}"),
        (
            f"Within {NEAR:.0f}°",
            f"{near} of {len(geometry.tokens)}",
            f"tokens have a word so near; of the model's own words {geometry.natural_share_near:.0%} have another one",
        ),
    )
    shown = "".join(f"<div class='tile'>{name}<b>{value}</b><small>{note}</small></div>" for name, value, note in tiles)
    plots = ""
    if spread is not None:
        plots = (
            "<div class='plots'>"
            f"<figure>{histogram_svg(spread.norms, 'Lengths of soft and natural tokens', 'length of the embedding')}"
            f"<figcaption>Lengths. {_bars(spread.norms)}</figcaption></figure>"
            f"<figure>{histogram_svg(spread.cosines, 'Cosines with the nearest word', 'cosine with the nearest word')}"
            f"<figcaption>How near the nearest word is. {_bars(spread.cosines)}</figcaption></figure></div>"
        )
    return f"<h2>Distance from natural language</h2><div class='tiles'>{shown}</div>{plots}"


def _median_of_bins(spread: Spread) -> float:
    """The middle of the bin in which the median of the natural cosines lies."""
    total, edges = 0.0, spread.cosines.edges
    for left, right, share in zip(edges, edges[1:], spread.cosines.natural, strict=False):
        total += share
        if total >= 0.5:
            return (left + right) / 2
    return edges[-1]


def _share(rank: float) -> str:
    return "all" if rank >= LONGEST_SHARE else f"{rank:.0%}"


def _neighbors(audit: Audit) -> str:
    geometry = audit.geometry
    assert geometry is not None
    rows = "".join(_row(number, token) for number, token in enumerate(geometry.tokens[:MAX_ROWS], start=1))
    left = len(geometry.tokens) - MAX_ROWS
    more = f"<p class='faint'>{left} more tokens are left out.</p>" if left > 0 else ""
    words = ""
    if audit.nearest is not None:
        if audit.robustness is not None:
            caution = f" It keeps {audit.robustness.nearest_kept:.0%} of the effect on the {audit.robustness.quantity}."
        else:
            caution = (
                " So far from words, it is known to keep little of what a soft prompt does." if audit.is_far else ""
            )
        words = (
            f"<p>Read one by one:</p><blockquote class='words'>{_text(audit.nearest.text, 2000)}</blockquote>"
            f"<p class='faint'>The nearest word of each token.{caution}</p>"
        )
    return (
        f"<h2>Nearest words</h2>{words}<div class='scroll'><table class='tokens'><thead><tr>"
        "<th class='number'>token</th><th class='number'>length</th>"
        "<th class='number'>longer than</th><th class='number'>angle</th>"
        f"<th>nearest words, and their cosines</th></tr></thead><tbody>{rows}</tbody></table></div>{more}"
    )


def _row(number: int, token: SoftToken) -> str:
    words = " ".join(
        f"<span class='word'>{_text(near.text, 60)}<i>{near.cosine:.2f}</i></span>" for near in token.by_cosine
    )
    numbers = (
        ("token", f"{number}"),
        ("length", f"{token.norm:.3g}"),
        ("longer than", _share(token.norm_rank)),
        ("angle", f"{token.angle:.0f}°"),
    )
    cells = "".join(f"<td class='number' data-label='{name}'>{value}</td>" for name, value in numbers)
    return f"<tr>{cells}<td class='words'>{words}</td></tr>"


def _robustness(report: RobustnessReport) -> str:
    shrink, turn = report.shrunk.kept_until(), report.rotated.kept_until()
    sentences = (
        f"Half of its effect and more is left when it is {report.shrunk.positions[-1]:g} times shorter"
        if shrink is None
        else f"Half of its effect is gone when it is {shrink:g} times shorter",
        "turned to the nearest words it keeps more than half too" if turn is None and shrink is None
        else "turned to the nearest words it keeps more than half" if turn is None
        else f"half is gone when it is turned by {turn:.0f}° towards the nearest words",
    )  # fmt: skip
    text = _text(report.template.replace("{}", "…"))
    return (
        f"<h2>Robustness</h2><p>{'; '.join(sentences)}. Soft prompts of language models bear being shrunk to a third, "
        f"and break when turned by more than {NEAR:.0f}° (Bailey et al. 2023).</p><div class='plots'>"
        f"<figure>{curve_svg(report.shrunk, 'Effect left when shrunk', 'length divided by', logarithmic=True)}"
        f"<figcaption>Effect left when it is shrunk. {_key()}</figcaption></figure>"
        f"<figure>{curve_svg(report.rotated, 'Effect left when turned', 'degrees towards the nearest word')}"
        f"<figcaption>Effect left when it is turned. {_key()}</figcaption></figure></div>"
        f"<p class='faint'>Effect on the {report.quantity} of “{text}”: 100% is the prompt as it is, 0% is the "
        f"template alone. {report.tokens} soft token{'s' * (report.tokens != 1)}; the band spans "
        f"{report.natural_prompts} natural prompts of as many tokens, the dashed line is their median.</p>"
    )


def _bars(histogram: Histogram) -> str:
    """What the bars of a histogram are, and how high: both kinds fill their half of the plot."""
    soft, natural = max(histogram.soft), max(histogram.natural)
    return (
        f"<span class='key natural'></span>natural, upwards (tallest bar {natural:.0%} of them)"
        f"<span class='key soft'></span>soft, downwards ({soft:.0%})"
    )


def _key() -> str:
    return "<span class='key soft'></span>soft<span class='key natural'></span>natural"


# --- text ---------------------------------------------------------------------------------


def _escaped(text: object, limit: int = MAX_TEXT) -> str:
    """A text that is data: escaped, without control characters or marks of direction, and not too long."""
    written = printable(str(text))
    return html.escape(written if len(written) <= limit else f"{written[: limit - 1]}…")


def _text(text: object, limit: int = MAX_TEXT) -> str:
    """The same as an element that keeps its writing direction to itself."""
    return f"<bdi>{_escaped(text, limit)}</bdi>"
