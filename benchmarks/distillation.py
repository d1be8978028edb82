"""Long captions of held-out scenes, made shorter: what is left at each length.

    python benchmarks/distillation.py            # 30 captions at four ratios
    python benchmarks/distillation.py --quick    # 8

The shape of PEZ's figure 9: the ratio of the tokens against the similarity of the pictures. Pictures are drawn
where the embedded diffusion model is there; the judge reads the texts in any case.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import save, save_figure, subplots
from comparison import Measurement
from generation import Setting, draw, open_models, picture_seeds

from hardprompts import DistilledPrompt, PromptDistiller, load_backend
from hardprompts.evaluation import image_similarities, markdown_table
from hardprompts_emoji import path, scenes

PICTURE = Path(__file__).parent.parent / "docs" / "distillation.png"
RATIOS = (0.7, 0.5, 0.3, 0.1)
METHODS = ("selection", "pez", "pez+refine")
FIRST_SEED = scenes.HELD_OUT_SEED + 5_000_000


def captions(count: int) -> list[str]:
    """Captions of scenes that the diffusion model can draw, with one and two objects in turn."""
    return [scenes.caption(scenes.sample_drawable_scene(FIRST_SEED + place, 1 + place % 2)) for place in range(count)]


def drawable() -> bool:
    """Whether the embedded diffusion model is installed."""
    try:
        path("emoji-sd")
    except ValueError as error:
        print(f"no pictures are drawn: {error}")
        return False
    return True


def drawn_similarities(texts: Sequence[str], others: Sequence[str], setting: Setting) -> tuple[float, ...]:
    """How alike the pictures of each text and of its shorter form are, drawn from other noises, by the judge."""
    models = open_models(setting)
    noises = [seed for place in range(len(texts)) for seed in picture_seeds(place, 0, 2)]
    first = draw(models, texts, noises[::2], setting)
    second = draw(models, others, noises[1::2], setting)
    return image_similarities([[picture] for picture in second], first, models.judge)


def drawn(figures: Sequence[Mapping[str, Any]], original: Sequence[float]) -> None:
    """The picture: how alike the pictures of each text and of its shorter form are, at each length."""
    figure, axes = subplots(figsize=(5.2, 3.4))
    whole = Measurement("original", tuple(original)).interval()
    axes.axhspan(whole.mean - whole.half_width, whole.mean + whole.half_width, color="gray", alpha=0.2, lw=0)
    axes.axhline(whole.mean, color="gray", linestyle="--", label="the original again, from other noise")
    for place, method in enumerate(METHODS):
        own = [one for one in figures if one["method"] == method]
        intervals = [Measurement(method, tuple(one["values"]["pictures"])).interval() for one in own]
        axes.errorbar(
            [one["ratio"] + 0.006 * (place - 1) for one in own], [one.mean for one in intervals],
            yerr=[one.half_width for one in intervals], marker="o", capsize=2, label=method,
        )  # fmt: skip
    axes.set(xlabel="length of the prompt, as a share of the original's tokens", ylabel="similarity of the pictures",
             xticks=sorted(RATIOS))  # fmt: skip
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save_figure(figure, PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 captions")
    parser.add_argument("--count", type=int, help="captions (default 30)")
    parser.add_argument("--evaluations", type=int, default=2000, help="passes of one prompt for each caption")
    arguments = parser.parse_args()
    count = arguments.count or (8 if arguments.quick else 30)
    backend, judge, setting = load_backend("emoji"), load_backend("emoji:emoji-clip-reference"), Setting()
    texts, pictures = captions(count), drawable()
    original = judge.encode_texts(texts)
    original_pictures: list[float] = []
    rows = [["method", "ratio", "tokens", "faithfulness", "held out", "judge's similarity", "of the pictures"]]
    if pictures:
        own = Measurement("original", drawn_similarities(texts, texts, setting))
        original_pictures = list(own.values)
        rows.append(["original", "1", "", "", "", "", str(own.interval())])
    figures: list[dict[str, Any]] = []
    for method in METHODS:
        distiller = PromptDistiller(backend, method)
        for ratio in RATIOS:
            found: list[DistilledPrompt] = [
                distiller.distill(text, ratio=ratio, seed=0, progress=False, max_evaluations=arguments.evaluations)
                for text in texts
            ]
            shares = [prompt.faithfulness for prompt in found]
            similar = (judge.encode_texts([prompt.filled for prompt in found]) * original).sum(dim=1).tolist()
            measured = {
                "matched": [share.matched.value for share in shares if share is not None],
                "held_out": [share.held_out.value for share in shares if share is not None and share.held_out],
                "judge": similar,
            }
            if pictures:
                measured["pictures"] = list(drawn_similarities(texts, [prompt.filled for prompt in found], setting))
            intervals = {name: str(Measurement(name, tuple(values)).interval()) for name, values in measured.items()}
            tokens = sum(len(prompt.token_ids) for prompt in found) / count
            cells = [intervals.get(name, "") for name in ("matched", "held_out", "judge", "pictures")]
            rows.append([method, f"{ratio}", f"{tokens:.1f}", *cells])
            print(markdown_table([rows[0], rows[-1]]).splitlines()[-1], flush=True)
            figures.append(
                {"method": method, "ratio": ratio, "values": measured, "prompts": [prompt.filled for prompt in found]}
            )
    print("\n" + markdown_table(rows))
    facts = {"captions": texts, "original": original_pictures, "figures": figures}
    save("distillation", {"settings": {**vars(arguments), "count": count}, **facts})
    if pictures and not arguments.quick:
        drawn(figures, original_pictures)


if __name__ == "__main__":
    main()
