"""Tiny pipelines of every supported family, built from config with tokenizers of the real formats."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from PIL import Image
from tiny_tokenizers import tokenizer_of
from tokenizers import pre_tokenizers

from hardprompts.diffusion.noise_prediction import NoiseBank, NoisePrediction
from hardprompts.methods import PEZ
from hardprompts_diffusers import noise_predictor
from hardprompts_diffusers.components import modules_of
from hardprompts_diffusers.generic import PipelinePredictor

TEXT = """
a photo of a red house near the river, a painting of two dogs and a cat in the snow
the old boat under the bridge at night, small blue birds over the ocean in winter
a sketch of a big green tree on the mountain road, the city in the summer morning
a portrait of a horse with a golden moon and a silver star, rain and clouds
Red House Near The River Old Boat Snow Cat cat cat dog dog house house tree tree boat boat
""".strip().splitlines()

#: Pictures are this many pixels high and wide.
SIZE = 32


# --- tokenizers ---------------------------------------------------------------------------


Merges = list[tuple[str, str]]


def _merges(words: Sequence[Sequence[str]], count: int) -> Merges:
    """Byte-pair encoding learnt from words cut into symbols; ties are broken the same way in every run.

    The trainer of the tokenizers package breaks them at random.
    """
    rows, merges = [list(word) for word in words], []
    while len(merges) < count:
        pairs = collections.Counter(pair for row in rows for pair in itertools.pairwise(row))
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for row in rows:
            place = 0
            while place < len(row) - 1:
                if (row[place], row[place + 1]) == best:
                    row[place : place + 2] = ["".join(best)]
                place += 1
    return merges


def _vocabulary(tokens: Iterable[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def _words() -> list[str]:
    return [word for word in " ".join(TEXT).replace(",", " ,").split() if word.isalpha()]


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


@functools.cache
def clip_tokenizer(pad: str = "<|endoftext|>", context: int = 20) -> Any:
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in map(str.lower, _words())]
    merges = _merges(words, 300)
    tokens = [*BYTES, *(f"{byte}</w>" for byte in BYTES), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return tokenizer_of(
        "CLIPTokenizer", vocab=_vocabulary(tokens), merges=merges, pad_token=pad, model_max_length=context
    )


@functools.cache
def t5_tokenizer() -> Any:
    words, letters = dict.fromkeys(_words()), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!,"
    pieces = [("▁", -4.0), *((f"▁{word}", -5.0) for word in words), *((letter, -9.0) for letter in letters)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces]
    return tokenizer_of("T5Tokenizer", vocab=vocab, extra_ids=0, model_max_length=64)


@functools.cache
def qwen_tokenizer() -> Any:
    # Each word both at the beginning of a text and behind a space, whose sign is Ġ.
    merges = _merges([list(f"{space}{word}") for word in _words() for space in ("", "Ġ")], 400)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = tokenizer_of(
        "Qwen2Tokenizer", vocab=_vocabulary([*BYTES, *map("".join, merges), *special]), merges=merges, model_max_length=512,
        additional_special_tokens=special[1:],
    )  # fmt: skip
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


@functools.cache
def gemma_tokenizer() -> Any:
    merges = _merges([list(f"▁{word}") for word in _words()], 300)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,:<>!"
    return tokenizer_of(
        "GemmaTokenizer", vocab=_vocabulary([*special, *letters, *map("".join, merges)]), merges=merges,
        model_max_length=512,
    )  # fmt: skip


# --- text encoders ------------------------------------------------------------------------


def clip_text(tokenizer: Any, width: int = 32, projection: int | None = None, **more: Any) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length, projection_dim=projection or 24,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **more,
    )  # fmt: skip
    kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    return kind(config)


def t5_text(tokenizer: Any, width: int = 32) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.1
        )
    )


def _decoder(tokenizer: Any, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip


def qwen3_text(tokenizer: Any, layers: int = 4) -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**_decoder(tokenizer, layers)))


def gemma_text(tokenizer: Any) -> Any:
    return transformers.Gemma2Model(transformers.Gemma2Config(**_decoder(tokenizer, 3)))


def qwen25_text(tokenizer: Any) -> Any:
    text = _decoder(tokenizer, 2)
    text.pop("head_dim")
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


# --- VAEs ---------------------------------------------------------------------------------


def kl_vae(channels: int = 4, **more: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=channels, norm_num_groups=4, sample_size=SIZE, **more,
    )  # fmt: skip


# --- pipelines ----------------------------------------------------------------------------


def _unet(width: int, **more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=SIZE // 2, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width, attention_head_dim=8, **more,
    )  # fmt: skip


def _ddim(prediction: str = "epsilon") -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type=prediction,
    )  # fmt: skip


def sd(prediction: str = "epsilon") -> Any:
    tokenizer = clip_tokenizer()
    return diffusers.StableDiffusionPipeline(
        vae=kl_vae(scaling_factor=0.18215), text_encoder=clip_text(tokenizer), tokenizer=tokenizer, unet=_unet(32),
        scheduler=_ddim(prediction), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sd2() -> Any:
    """As SD 2.1: v prediction, and padding with "!"."""
    pipe = sd("v_prediction")
    pipe.register_modules(tokenizer=clip_tokenizer(pad="!"))
    return pipe


def sdxl() -> Any:
    tokenizer, second = clip_tokenizer(), clip_tokenizer(pad="!")
    # eos_token_id=2 is what real configs say: the pooled feature is then read at the largest id.
    return diffusers.StableDiffusionXLPipeline(
        vae=kl_vae(scaling_factor=0.13025), text_encoder=clip_text(tokenizer), tokenizer=tokenizer,
        text_encoder_2=clip_text(second, 40, projection=40), tokenizer_2=second, scheduler=_ddim(),
        unet=_unet(
            72, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=88
        ),
    )  # fmt: skip


def sd3() -> Any:
    first, second, third = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIZE // 2, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=48,
        pos_embed_max_size=32,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(first, 24, projection=24), tokenizer=first,
        text_encoder_2=clip_text(second, 24, projection=24), tokenizer_2=second,
        text_encoder_3=t5_text(third, 64), tokenizer_3=third,
    )  # fmt: skip


def flux() -> Any:
    first, second = clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8], guidance_embeds=True,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=kl_vae(shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(first), tokenizer=first, text_encoder_2=t5_text(second), tokenizer_2=second,
    )  # fmt: skip


def chroma() -> Any:
    tokenizer = t5_tokenizer()
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=32,
        approximator_layers=1,
    )  # fmt: skip
    return diffusers.ChromaPipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), tokenizer=tokenizer,
        vae=kl_vae(shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=t5_text(tokenizer),
    )  # fmt: skip


def flux2_klein() -> Any:
    tokenizer = qwen_tokenizer()
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=96, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=SIZE,
    )  # fmt: skip
    with torch.no_grad():
        vae.bn.running_mean.copy_(torch.linspace(-0.2, 0.3, 16))
        vae.bn.running_var.copy_(torch.linspace(0.5, 1.5, 16))
    return diffusers.Flux2KleinPipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), tokenizer=tokenizer, vae=vae,
        text_encoder=qwen3_text(tokenizer), is_distilled=True,
    )  # fmt: skip


def pixart() -> Any:
    tokenizer = t5_tokenizer()
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=SIZE // 2, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3,
        caption_channels=32, cross_attention_dim=24, in_channels=4, out_channels=8,
    )  # fmt: skip
    return diffusers.PixArtAlphaPipeline(
        transformer=transformer, scheduler=_ddim(), tokenizer=tokenizer, text_encoder=t5_text(tokenizer),
        vae=kl_vae(scaling_factor=0.13025),
    )  # fmt: skip


def sana() -> Any:
    tokenizer = gemma_tokenizer()
    transformer = diffusers.SanaTransformer2DModel(
        sample_size=SIZE // 4, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=32,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=[1, 1], downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.SanaPipeline(
        transformer=transformer, scheduler=scheduler, tokenizer=tokenizer, text_encoder=gemma_text(tokenizer), vae=vae
    )


def lumina2() -> Any:
    tokenizer = gemma_tokenizer()
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1,
        num_attention_heads=3, num_kv_heads=1, multiple_of=2, axes_dim_rope=(4, 2, 2), axes_lens=(512, 32, 32),
        cap_feat_dim=32,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4, sample_size=SIZE,
        shift_factor=0.1159, scaling_factor=0.3611,
    )  # fmt: skip
    return diffusers.Lumina2Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), tokenizer=tokenizer,
        text_encoder=gemma_text(tokenizer), vae=vae,
    )  # fmt: skip


def qwenimage() -> Any:
    tokenizer = qwen_tokenizer()
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.8, 1.2, 1.0],
    )  # fmt: skip
    return diffusers.QwenImagePipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), tokenizer=tokenizer,
        text_encoder=qwen25_text(tokenizer), vae=vae,
    )  # fmt: skip


def zimage() -> Any:
    tokenizer = qwen_tokenizer()
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[8, 4, 4], axes_lens=[512, 32, 32],
    )  # fmt: skip
    return diffusers.ZImagePipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), tokenizer=tokenizer,
        text_encoder=qwen3_text(tokenizer), vae=kl_vae(shift_factor=0.1159, scaling_factor=0.3611),
    )  # fmt: skip


#: What each pipeline's call is given beside prompt and size, so that tiny contexts do.
OPTIONS: dict[str, dict[str, Any]] = {
    "sd3": {"max_sequence_length": 24},
    "flux": {"max_sequence_length": 24},
    "chroma": {"max_sequence_length": 24},
    "flux2_klein": {"max_sequence_length": 64, "text_encoder_out_layers": (1, 2, 3)},
    "pixart": {"max_sequence_length": 24},
    "sana": {"max_sequence_length": 32, "complex_human_instruction": ["Think of the scene.", "User Prompt: "]},
    "lumina2": {"system_prompt": "You draw.", "max_sequence_length": 64},
    "qwenimage": {"max_sequence_length": 128},
    "zimage": {"max_sequence_length": 64},
}

FAMILIES: dict[str, Callable[[], Any]] = {
    "sd": sd, "sd2": sd2, "sdxl": sdxl, "sd3": sd3, "flux": flux, "chroma": chroma, "flux2_klein": flux2_klein,
    "pixart": pixart, "sana": sana, "lumina2": lumina2, "qwenimage": qwenimage, "zimage": zimage,
}  # fmt: skip


def build(family: str, seed: int = 0) -> Any:
    """A fresh pipeline of a family, with seeded weights in which texts matter."""
    torch.manual_seed(seed)
    try:
        pipe = FAMILIES[family]()
    except AttributeError as error:  # what diffusers says of a class that it does not have
        if not str(error).startswith("module diffusers has no attribute"):
            raise
        pytest.skip(f"diffusers {diffusers.__version__} has no {family}: {error}")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def saved(family: str, folder: Path) -> Path:
    """The folder of a pipeline of that family, as `save_pretrained` writes it."""
    build(family).save_pretrained(folder / family)
    return folder / family


# --- what the tests do with them ----------------------------------------------------------

IMAGE = Image.effect_noise((50, 40), 80).convert("RGB")
OTHER = Image.linear_gradient("L").convert("RGB")

#: A search of a second or so.
SEARCH = {"num_tokens": 2, "num_noises": 3, "noises_per_step": None, "restarts": 2}


def loaded(folder: Path) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def built(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A fresh pipeline in memory, frozen."""
    pipe = build(family)
    for module in modules_of(pipe).values():
        if dtype != torch.float32:
            module.to(dtype)
        module.eval().requires_grad_(False)
    return pipe


def predictor_of(pipe: Any, family: str, generic: bool = False) -> Any:
    if generic:
        return PipelinePredictor.create(pipe, family, SIZE, SIZE, options=OPTIONS.get(family))
    return noise_predictor(pipe, height=SIZE, width=SIZE, options=OPTIONS.get(family))


def judged_by(predictor: Any, image: Image.Image = IMAGE, **options: Any) -> NoisePrediction:
    bank = NoiseBank.draw(predictor, [[(image, 1.0)]], **{"items": 4, "seed": 0, **options})
    return NoisePrediction(predictor, bank)


def value_and_grad(judged: NoisePrediction, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = judged.predictor.vocabulary.embed(ids).clone().requires_grad_()
    loss = judged(leaf, torch.zeros(len(ids), dtype=torch.long)).loss
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def some_ids(predictor: Any, rows: int = 2, tokens: int = 3, seed: int = 0) -> torch.Tensor:
    return predictor.vocabulary.sample((rows, tokens), torch.Generator().manual_seed(seed))


def invert(pipe: Any, image: Any = OTHER, **options: Any) -> Any:
    given = {"match": "diffusion", "method": PEZ(), "max_steps": 3, **SEARCH, **options}
    return pipe.invert_prompt(image, **given)


def state_of(pipe: Any) -> dict[str, Any]:
    state: dict[str, Any] = {"attributes": {key: id(value) for key, value in vars(pipe).items()}}
    state["scheduler"] = dict(vars(pipe.scheduler))
    for name, module in modules_of(pipe).items():
        for path, part in module.named_modules():
            state[name, path] = (
                part.training, vars(part).get("gradient_checkpointing"), sorted(vars(part)), id(part.forward.__func__)
                if hasattr(part.forward, "__func__") else id(part.forward), len(part._forward_hooks),
                len(part._forward_pre_hooks), id(getattr(part, "_hf_hook", None)),
            )  # fmt: skip
        for path, parameter in module.named_parameters():
            state[name, path, "parameter"] = (
                parameter.requires_grad, parameter.dtype, parameter.device, id(parameter), parameter.grad is None
            )  # fmt: skip
    return state
