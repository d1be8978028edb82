"""How long a search through a denoiser will take, said before it begins."""

import torch

from hardprompts.allowance import Allowance, clock
from hardprompts.diffusion.noise_prediction import NoisePrediction
from hardprompts.diffusion.options import DenoisingOptions
from hardprompts.methods.ph2p_refine import PH2PRefine
from hardprompts.methods.refine import Refine
from hardprompts.search.protocol import Search

#: Rows through the denoiser that a gradient of one row takes the time of.
GRADIENT = 2.5

#: How often a refinement goes through all places of a prompt, and the noises that a move is judged on before it loses
#: its race, as they were on 40 pictures (`benchmarks/denoising.py`).
SWEEPS, RACED = 2.5, 3.0


def seconds_of_row(score: NoisePrediction, allowance: Allowance) -> float:
    """How long one prompt with one noise takes through text encoders and denoiser, measured on one batch."""
    nothing = torch.zeros(1, 0, dtype=torch.long, device=score.predictor.vocabulary.table.device)
    group, places = (
        nothing.new_zeros(1),
        torch.arange(max(1, min(score.batch_size, len(score.bank)) // score.bank.pairs)),
    )
    float(score.item_scores(nothing, group, places[:1]).sum())  # the first call of a network takes longer
    began = clock()
    float(score.item_scores(nothing, group, places).sum())  # as a number, since that waits for the device
    allowance.spend(1)
    return (clock() - began) / (len(places) * score.bank.pairs)


def expected_seconds(
    search: Search, score: NoisePrediction, options: DenoisingOptions, tasks: int, allowance: Allowance
) -> float | None:
    """The seconds until the deadline, or those that the search is expected to take, by what a batch takes here.

    Args:
        allowance: what is left, of which the measuring takes a pass.
    """
    if allowance.seconds_left is not None:
        return allowance.seconds_left
    if not allowance.affords(2):
        return None
    noises = len(score.bank)
    drawn = noises if options.noises_per_step is None else min(noises, options.noises_per_step * score.bank.pairs)
    rows = tasks * _rows(search, options, noises, drawn)
    if (left := allowance.remaining) is not None:
        rows = min(rows, left * noises)
    return rows * seconds_of_row(score, allowance)


def _rows(search: Search, options: DenoisingOptions, noises: int, drawn: int) -> float:
    """Rows through the denoiser for one task; of a method that is not known here, those of PH2P."""
    if isinstance(search, PH2PRefine):
        explored = options.starts * min(search.explore_steps, options.steps or search.explore_steps)
        met = RACED * explored if search.explore_steps > 1 else 0
        gradients = GRADIENT * drawn * explored if search.explore_steps > 1 else 0
        return noises + gradients + met + search.refined * _rows(search.refine, options, noises, drawn)
    if isinstance(search, Refine):
        places = SWEEPS * (options.num_tokens + 1)
        moves = (search.swap + search.insert) * search.candidates_per_slot + search.delete
        return places * (moves * (RACED if search.race else noises) + 2 * GRADIENT * drawn)
    return (options.steps or options.DEFAULT_MAX_STEPS) * options.starts * (GRADIENT * drawn + noises)
