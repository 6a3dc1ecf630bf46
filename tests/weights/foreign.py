"""Tiny random checkpoints of architectures that chiasm has no reader for, written by transformers' own classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import models as token_models
from tokenizers import pre_tokenizers

from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights.generating import CHATML, write_tokenizer
from tests.weights.shaking import shaken

SIZE, PATCH = 28, 14

_BLOCKS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
_TEXT: dict[str, Any] = {**_BLOCKS, "num_key_value_heads": 2, "head_dim": 8}
_VISION = {**_BLOCKS, "image_size": SIZE, "patch_size": PATCH}
_BERT = {**_BLOCKS, "max_position_embeddings": 24}


def fast(folder: Path, template: str | None = CHATML, extra: tuple[str, ...] = ("<image>",)) -> Any:
    write_tokenizer(folder, template or "", extra)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder, chat_template=template)


def words(count: int = 60) -> tokenizers.Tokenizer:
    """A tokenizer of whole words with BERT's marks, for text towers."""
    said = "a red blue green circle square cube dog cat left of the two dogs is there no in picture person"
    known = said.split()
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]
    listed += [f"w{at}" for at in range(count - len(listed))]
    backend = tokenizers.Tokenizer(token_models.WordLevel({one: at for at, one in enumerate(listed)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def bert(count: int = 60, **more: Any) -> Any:
    backend = words(count)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.BertTokenizer(
        vocab=backend.get_vocab(with_added_tokens=False), model_max_length=20, do_lower_case=True, **more
    )


def _saved(folder: Path, model: Any, processor: Any) -> Any:
    shaken(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def paligemma(folder: Path) -> Any:
    tokenizer = fast(folder, None)
    tokenizer.bos_token = "<|im_start|>"
    processor = transformers.PaliGemmaProcessor(
        transformers.SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_seq_length=4), tokenizer
    )
    torch.manual_seed(0)
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**_VISION).to_dict(),
        text_config=transformers.GemmaConfig(**_TEXT, vocab_size=len(tokenizer), eos_token_id=2).to_dict(),
        image_token_index=processor.image_token_id,
        vocab_size=len(tokenizer),
        projection_dim=32,
        hidden_size=32,
    )
    return _saved(folder, transformers.PaliGemmaForConditionalGeneration(config), processor)


def gemma3(folder: Path) -> Any:
    template = CHATML.replace("'<image>'", "'<start_of_image>'")
    tokenizer = fast(folder, template, ("<start_of_image>", "<end_of_image>", "<image_soft_token>"))
    for name, token in (("boi", "<start_of_image>"), ("eoi", "<end_of_image>"), ("image", "<image_soft_token>")):
        setattr(tokenizer, f"{name}_token", token)
        setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        tokenizer.init_kwargs[f"{name}_token"] = token
    tokenizer._set_model_specific_special_tokens(
        {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in ("boi", "eoi", "image")}
    )
    pixels = transformers.Gemma3ImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_pan_and_scan=False)
    processor = transformers.Gemma3Processor(pixels, tokenizer, chat_template=template, image_seq_length=4)
    torch.manual_seed(0)
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**_VISION).to_dict(),
        text_config=transformers.Gemma3TextConfig(
            **_TEXT, vocab_size=len(tokenizer), max_position_embeddings=400, eos_token_id=2, sliding_window=64
        ).to_dict(),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    return _saved(folder, transformers.Gemma3ForConditionalGeneration(config), processor)


def qwen2_5_vl(folder: Path) -> Any:
    template = CHATML.replace("'<image>'", "'<|vision_start|><|image_pad|><|vision_end|>'")
    extra = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = fast(folder, template, extra)
    starts, ends, image, video = tokenizer.convert_tokens_to_ids(list(extra))
    pixels = transformers.Qwen2VLImageProcessorPil(
        patch_size=PATCH, size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 12}
    )
    processor = transformers.Qwen2_5_VLProcessor(
        pixels, tokenizer, transformers.Qwen2VLVideoProcessor(), chat_template=template
    )
    torch.manual_seed(0)
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **_TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
            "bos_token_id": 0,
            "eos_token_id": 2,
            "max_position_embeddings": 400,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": 32,
            "patch_size": PATCH,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=starts,
        vision_end_token_id=ends,
    )
    return _saved(folder, transformers.Qwen2_5_VLForConditionalGeneration(config), processor)


def llava_onevision(folder: Path) -> Any:
    tokenizer = fast(folder, CHATML, ("<image>", "<video>"))
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    pixels = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]]
    )
    processor = transformers.LlavaOnevisionProcessor(
        pixels,
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=CHATML,
    )
    torch.manual_seed(0)
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**_VISION, vision_use_head=False).to_dict(),
        text_config=transformers.Qwen2Config(
            **_BLOCKS, num_key_value_heads=2, vocab_size=len(tokenizer), eos_token_id=2
        ).to_dict(),
        image_token_index=image,
        video_token_index=video,
        image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]],
        vision_feature_layer=-1,
    )
    return _saved(folder, transformers.LlavaOnevisionForConditionalGeneration(config), processor)


def florence2(folder: Path) -> Any:
    tokenizer = fast(folder, None)
    tokenizer._set_model_specific_special_tokens({"image_token": "<image>"})
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    tokenizer.init_kwargs["image_token"] = "<image>"
    pixels = transformers.CLIPImageProcessorPil(
        size={"height": 64, "width": 64},
        crop_size={"height": 64, "width": 64},
        do_center_crop=False,
        image_seq_length=5,
    )
    pixels.image_seq_length = 5
    processor = transformers.Florence2Processor(pixels, tokenizer)
    torch.manual_seed(0)
    config = transformers.Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 128,
            "init_std": 0.3,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "decoder_start_token_id": 2,
            "forced_bos_token_id": None,
            "forced_eos_token_id": None,
        },
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [8, 16, 16, 32],
            "num_heads": [2, 2, 2, 2],
            "num_groups": [2, 2, 2, 2],
            "window_size": 2,
            "projection_dim": 32,
            "max_temporal_embeddings": 8,
            "max_position_embeddings": 10,
        },
        image_token_id=tokenizer.image_token_id,
    )
    return _saved(folder, transformers.Florence2ForConditionalGeneration(config), processor)


def mistral3(folder: Path) -> Any:
    """Pixtral's tower and processor."""
    template = CHATML.replace("'<image>'", "'[IMG]'")
    tokenizer = fast(folder, template, ("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    pixels = transformers.PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14})
    processor = transformers.PixtralProcessor(
        pixels, tokenizer, patch_size=14, spatial_merge_size=2, chat_template=template
    )
    torch.manual_seed(0)
    config = transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(**{**_VISION, "image_size": 56, "head_dim": 8}).to_dict(),
        text_config=transformers.MistralConfig(**_TEXT, vocab_size=len(tokenizer), eos_token_id=2).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    return _saved(folder, transformers.Mistral3ForConditionalGeneration(config), processor)


def _reading(folder: Path, kind: Any, template: str | None = CHATML, **settings: Any) -> Any:
    """A model of text alone, of a class of transformers."""
    tokenizer = fast(folder, template, ())
    torch.manual_seed(0)
    config = kind.config_class(**{"vocab_size": len(tokenizer), "eos_token_id": 2, **settings})
    return _saved(folder, kind(config), tokenizer)


def phi(folder: Path) -> Any:
    return _reading(folder, transformers.PhiForCausalLM, **_BLOCKS, max_position_embeddings=400)


def gemma(folder: Path) -> Any:
    return _reading(folder, transformers.GemmaForCausalLM, **_TEXT, max_position_embeddings=400)


def t5(folder: Path) -> Any:
    sizes: dict[str, Any] = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "initializer_factor": 3.0,
    }
    marks = {"decoder_start_token_id": 0, "pad_token_id": 0}
    return _reading(folder, transformers.T5ForConditionalGeneration, None, **sizes, **marks)


def align(folder: Path) -> Any:
    torch.manual_seed(0)
    config = transformers.AlignConfig(
        text_config={**_BERT, "vocab_size": 60, "max_position_embeddings": 64},
        vision_config={
            "image_size": 32,
            "width_coefficient": 1.0,
            "depth_coefficient": 0.2,
            "kernel_sizes": [3, 3],
            "in_channels": [32, 16],
            "out_channels": [16, 32],
            "strides": [1, 2],
            "num_block_repeats": [1, 1],
            "expand_ratios": [1, 2],
            "depthwise_padding": [],
            "hidden_dim": 32,
        },
        projection_dim=32,
    )
    pixels = transformers.EfficientNetImageProcessorPil(
        size={"height": 32, "width": 32}, do_center_crop=False, rescale_offset=False, include_top=False
    )
    return _saved(folder, transformers.AlignModel(config), transformers.AlignProcessor(pixels, bert()))


def _clip_pixels() -> Any:
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def altclip(folder: Path) -> Any:
    torch.manual_seed(0)
    config = transformers.AltCLIPConfig(
        text_config={**_BERT, "vocab_size": 60, "project_dim": 32, "pad_token_id": 1},
        vision_config=_VISION,
        projection_dim=32,
    )
    tokenizer = bert()
    return _saved(folder, transformers.AltCLIPModel(config), transformers.AltCLIPProcessor(_clip_pixels(), tokenizer))


def clipseg(folder: Path) -> Any:
    torch.manual_seed(0)
    config = transformers.CLIPSegConfig(
        text_config={**_BERT, "vocab_size": 60, "eos_token_id": 3}, vision_config=_VISION, projection_dim=32
    )
    return _saved(folder, transformers.CLIPSegModel(config), transformers.CLIPSegProcessor(_clip_pixels(), bert()))


def _blip_config() -> Any:
    return transformers.BlipConfig(
        text_config={
            **_BERT,
            "vocab_size": 60,
            "encoder_hidden_size": 32,
            "bos_token_id": 4,
            "pad_token_id": 0,
            "sep_token_id": 3,
            "eos_token_id": 3,
        },
        vision_config=_VISION,
        projection_dim=32,
        image_text_hidden_size=32,
    )


def _blip_processor() -> Any:
    return transformers.BlipProcessor(transformers.BlipImageProcessorPil(size={"height": SIZE, "width": SIZE}), bert())


def blip(folder: Path) -> Any:
    """BLIP's captioner."""
    torch.manual_seed(0)
    return _saved(folder, transformers.BlipForConditionalGeneration(_blip_config()), _blip_processor())


def blip_retrieval(folder: Path) -> Any:
    torch.manual_seed(0)
    return _saved(folder, transformers.BlipForImageTextRetrieval(_blip_config()), _blip_processor())


SEEING: tuple[Callable[[Path], Any], ...] = (
    paligemma, gemma3, qwen2_5_vl, llava_onevision, florence2, mistral3, blip,
)  # fmt: skip
READING: tuple[Callable[[Path], Any], ...] = (phi, gemma, t5)
COMPARING: tuple[Callable[[Path], Any], ...] = (align, altclip, clipseg)


def llama(folder: Path) -> Any:
    """One that chiasm has a reader for."""
    return _reading(folder, transformers.LlamaForCausalLM, **_TEXT)
