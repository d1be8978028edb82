"""Captioners of transformers, from tiny models with random weights; and one that has learnt what two pictures show."""

import pytest
import torch
from PIL import Image

from hardprompts import BackendError, PromptInverter, UnknownName
from hardprompts.inversion import load_captioner
from hardprompts.testing import check_captioner, toy_backend

transformers = pytest.importorskip("transformers")

import tokenizers  # noqa: E402
from tiny_tokenizers import image_processor_of  # noqa: E402
from tokenizers import models, pre_tokenizers, processors  # noqa: E402

from hardprompts_transformers.captions import ImageCaptioner  # noqa: E402

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "house", "old", "boat", "on", "the", "river", "a")
PICTURES = [
    Image.linear_gradient("L").convert("RGB"),
    Image.new("RGB", (40, 30), "red"),
    Image.new("RGB", (1, 3), "navy"),
    Image.radial_gradient("L").convert("RGB"),
]


def words():
    raw = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def build(family: str):
    """(model, image processor, tokenizer) with random weights."""
    torch.manual_seed(0)
    t = transformers
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    sight = {**shape, "image_size": 16, "patch_size": 8}
    text = {
        **shape, "vocab_size": len(WORDS), "max_position_embeddings": 64,
        "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    size = {"height": 16, "width": 16}
    if family == "blip":
        config = t.BlipConfig(
            vision_config=sight,
            text_config={**text, "encoder_hidden_size": 32, "sep_token_id": 3},
            projection_dim=16,
            image_text_hidden_size=16,
        )
        return t.BlipForConditionalGeneration(config), image_processor_of("Blip", size=size), words()
    if family == "git":
        processor = image_processor_of("CLIP", size=size, do_center_crop=False)
        return t.GitForCausalLM(t.GitConfig(vision_config=sight, **text)), processor, words()
    decoder = t.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=32, vocab_size=len(WORDS), add_cross_attention=True,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    config = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(t.ViTConfig(**sight), decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    model = t.VisionEncoderDecoderModel(config)
    model.generation_config.update(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3, bos_token_id=2)
    return model, image_processor_of("ViT", size=size), words()


FAMILIES = ("blip", "git", "vit-gpt2")


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_are_those_of_the_model_itself(family: str, tmp_path) -> None:
    model, processor, tokenizer = build(family)
    captioner = ImageCaptioner(model.eval(), processor, tokenizer, max_new_tokens=6, batch_size=3)
    captions = captioner(PICTURES)
    assert len(captions) == len(PICTURES) and captioner(PICTURES) == captions
    for picture, caption in zip(PICTURES[:2], captions[:2], strict=True):
        pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
        ids = model.generate(pixel_values=pixels, max_new_tokens=6, num_beams=3, do_sample=False)
        assert caption == tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    for part in (model, processor, tokenizer):
        part.save_pretrained(tmp_path)
    opened = ImageCaptioner.from_pretrained(tmp_path, max_new_tokens=6, device="cpu")
    assert opened(PICTURES) == captions and not any(p.requires_grad for p in opened.model.parameters())


def saved(folder, *parts):
    for part in parts:
        part.save_pretrained(folder)
    return f"transformers:{folder}"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_captioner_is_opened_by_its_name(family: str, tmp_path) -> None:
    model, processor, tokenizer = build(family)
    name = saved(tmp_path, model, processor, tokenizer)
    inverter = PromptInverter(toy_backend(), "pez", captioner=name, device="cpu")
    assert inverter.captioner.name == name
    check_captioner(inverter.captioner, PICTURES)
    captions = ImageCaptioner(model.eval(), processor, tokenizer)(PICTURES)
    assert inverter.captioner(PICTURES) == captions
    short = load_captioner(name, device="cpu", max_new_tokens=1)
    assert short(PICTURES[:1]) == ImageCaptioner(model, processor, tokenizer, max_new_tokens=1)(PICTURES[:1])


#: Asks as those models do that chat: an image has a place among the words.
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} the{% endif %}"
)


def llava(**options):
    """A model that reads an image among words, and its processor."""
    torch.manual_seed(0)
    t = transformers
    vocab = {word: i for i, word in enumerate((*WORDS, "<image>"))}
    raw = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**shape, image_size=16, patch_size=8),
        text_config=t.LlamaConfig(
            **shape, vocab_size=len(vocab), pad_token_id=0, bos_token_id=2, eos_token_id=3, max_position_embeddings=64
        ),
        image_token_index=len(WORDS), image_seq_length=4, vision_feature_layer=-1,
    )  # fmt: skip
    processor = t.LlavaProcessor(
        image_processor_of("CLIP", size={"height": 16, "width": 16}, do_center_crop=False), tokenizer,
        patch_size=8, vision_feature_select_strategy="default", image_token="<image>", num_additional_image_tokens=1,
        **options,
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config).eval(), processor


def test_a_model_that_chats_is_asked_in_its_own_words(tmp_path) -> None:
    model, processor = llava(chat_template=CHAT)
    captioner = load_captioner(saved(tmp_path, model, processor), device="cpu", max_new_tokens=6)
    check_captioner(captioner, PICTURES[1:2])
    captions = captioner(PICTURES[:2])
    for picture, caption in zip(PICTURES, captions, strict=False):
        asked = "<image> Describe this image in one short sentence. the"
        inputs = processor(images=[picture], text=[asked], return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=6, num_beams=3, do_sample=False)
        answer = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert caption == answer.strip()
    other = load_captioner(f"transformers:{tmp_path}", device="cpu", max_new_tokens=6, instruction="red old boat")
    assert other.instruction == "red old boat"
    with pytest.raises(BackendError, match="have no option question; it has instruction, max_new_tokens"):
        load_captioner(f"transformers:{tmp_path}", question="what?")


def test_a_model_that_must_be_asked_and_nobody_says_what(tmp_path) -> None:
    name = saved(tmp_path, *llava())
    with pytest.raises(BackendError, match="llava model, which must be asked something.*instruction="):
        load_captioner(name, device="cpu")
    asked = load_captioner(name, device="cpu", instruction="<image> the", max_new_tokens=3)
    check_captioner(asked, PICTURES[1:2])


def test_names_that_open_no_captioner_say_what_would(tmp_path) -> None:
    with pytest.raises(UnknownName, match="unknown captioner scheme 'owner/blip'.*as in 'transformers:owner/blip'"):
        PromptInverter(toy_backend(), captioner="owner/blip")
    with pytest.raises(BackendError, match="needs a model: .*transformers:Salesforce/blip"):
        load_captioner("transformers:")
    with pytest.raises(BackendError, match="there is no folder"):
        load_captioner(f"transformers:{tmp_path}/none")
    name = saved(tmp_path, *build("git"))
    with pytest.raises(BackendError, match="git model, which captions images without an instruction"):
        load_captioner(name, instruction="what?")


def test_the_output_of_a_pipeline_is_told_from_a_caption() -> None:
    pipeline = lambda images: [[{"generated_text": "red house"}] for _ in images]  # noqa: E731
    with pytest.raises(ValueError, match="one text for each image, and gave .*generated_text.*a list; .*by name"):
        PromptInverter(toy_backend(), captioner=pipeline).invert(PICTURES[0], 2, max_steps=1, progress=False)


def test_what_a_captioner_has_learnt_of_pictures_is_where_the_search_begins() -> None:
    """A ViT with GPT-2 is taught two captions, which a search without steps then meets."""
    texts, pictures = ["old boat on the river", "red house"], PICTURES[:2]
    model, processor, tokenizer = build("vit-gpt2")
    labels = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)["input_ids"]
    labels = torch.cat([labels, torch.zeros(2, 1, dtype=torch.long)], dim=1)
    labels[torch.arange(2), (labels != 0).sum(dim=1)] = 3
    pixels = processor(images=pictures, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    optimizer, starts = torch.optim.Adam(model.parameters(), lr=5e-3), torch.full((2, 1), 2)
    for _ in range(60):
        # Written out, since older releases shift the labels twice.
        logits = model(pixel_values=pixels, decoder_input_ids=torch.cat([starts, labels[:, :-1]], dim=1)).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    captioner = ImageCaptioner(model.eval(), processor, tokenizer)
    assert captioner(pictures) == texts
    prompts = PromptInverter(toy_backend(), "pez", captioner=captioner).invert_each(
        pictures, num_tokens=5, max_steps=0, restarts=4, views=1, seed=0, progress=False
    )
    for prompt, text in zip(prompts, texts, strict=True):
        assert text in {candidate.text for candidate in prompt.candidates}


def test_what_captions_no_images_is_refused(tmp_path) -> None:
    with pytest.raises(
        BackendError, match="cannot load the image-to-text model of .*model_type.*save it from the model again"
    ):
        ImageCaptioner.from_pretrained(tmp_path)
    tower = transformers.ViTModel(transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(BackendError, match="ViTModel writes no text"):
        ImageCaptioner(tower, None, None)
    model, processor, tokenizer = build("blip")
    with pytest.raises(ValueError, match="num_beams"):
        ImageCaptioner(model, processor, tokenizer, num_beams=0)
    for part in (tower, processor, tokenizer):
        part.save_pretrained(tmp_path)
    with pytest.raises(BackendError, match="cannot load the image-to-text model"):
        ImageCaptioner.from_pretrained(tmp_path)
