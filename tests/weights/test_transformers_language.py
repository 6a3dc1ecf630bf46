"""Language models against the classes of transformers, on tiny random checkpoints that those classes wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import chiasm
from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError
from chiasm.models.language import Language
from chiasm.nn.decoder import Packed, positions_of
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights.generating import write_tokenizer

COMMON: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "eos_token_id": 2,
    "bos_token_id": None,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied-stretched": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3, "head_dim": 16}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mistral-unbounded": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"rope_theta": 1e6}),
    "qwen2-windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "opt": ("OPT", {"ffn_dim": 80, "init_std": 0.3, "max_position_embeddings": 40}),
    "opt-untied": ("OPT", {"ffn_dim": 80, "init_std": 0.3, "tie_word_embeddings": False}),
}


def peer(kind: str, folder: Path) -> Any:
    """A random model of that kind, saved in the folder; its biases and norms too, so that none is lost unseen."""
    name, more = KINDS[kind]
    vocabulary = write_tokenizer(folder)
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=vocabulary, **{**COMMON, **more})
    config._attn_implementation = "eager"  # the one that obeys every window
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def logits(model: Language, ids: list[list[int]]) -> list[torch.Tensor]:
    lengths = [len(row) for row in ids]
    decoder = model.language
    x_TD = decoder.embed(torch.tensor([one for row in ids for one in row]))
    return list(decoder.logits(decoder(x_TD, positions_of(lengths), Packed(lengths))).split(lengths))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_answers_agree_with_transformers(kind: str, tmp_path: Path) -> None:
    theirs = peer(kind, tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, Language)
    rows = [torch.randint(3, 300, (length,)).tolist() for length in (9, 1, 14)]
    with torch.no_grad():
        for row, scores in zip(rows, logits(ours, rows), strict=True):
            assert torch.allclose(scores, theirs(torch.tensor([row])).logits[0], atol=1e-4, rtol=1e-4)
    prompts = ["What is in the picture?", "There are", "The answer is yes; there are 3"]
    samples = [Sample(str(at), (Text(text, role="user"),)) for at, text in enumerate(prompts)]
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for sample, answered in zip(samples, ours.generate(samples, max_tokens=12), strict=True):
        chat = [{"role": "user", "content": sample.texts[0].text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        said = theirs.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        assert answered.texts[-1].text == tokenizer.decode(said, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_rounds_no_more_than_transformers_does(kind: str, tmp_path: Path) -> None:
    exact = peer(kind, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    ours = chiasm.load(tmp_path, precision="bf16")
    assert isinstance(ours, Language)
    rows = [torch.randint(3, 300, (20,)).tolist() for _ in range(16)]
    with torch.no_grad():
        wanted = exact(torch.tensor(rows)).logits
        off = (torch.stack(logits(ours, rows)) - wanted).square().mean()
        theirs_off = (theirs(torch.tensor(rows)).logits - wanted).square().mean()
    assert 0 < off <= 1.2 * theirs_off


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_transformers_reads(kind: str, tmp_path: Path) -> None:
    theirs = peer(kind, tmp_path / "theirs")
    ours = chiasm.load(tmp_path / "theirs")
    assert isinstance(ours, Language)
    save(ours, tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    ids = torch.randint(3, 300, (1, 11))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "ours")
    assert tokenizer("two dogs").input_ids == ours.processor.ids("two dogs")
    assert tokenizer.chat_template == ours.processor.template.source


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_losses_agree_with_transformers_on_the_target_tokens(kind: str, tmp_path: Path) -> None:
    theirs = peer(kind, tmp_path)
    ours = chiasm.load(tmp_path)
    parts = (Text("What is it?", "user"), Text("Two dogs", "assistant", target=True))
    samples = [Sample("a", parts), Sample("b", (*parts, Text("Sure?", "user"), Text("yes.", "assistant", True)))]
    batch = ours.processor(samples)
    assert batch.stream is not None
    words = batch.stream
    longest = int(words.lengths_B.max())
    ids = torch.zeros(2, longest, dtype=torch.long)
    labels = torch.full((2, longest), -100)
    at = 0
    for row, length in enumerate(words.lengths_B.tolist()):
        piece = slice(at, at + length)
        ids[row, :length] = words.ids_T[piece]
        labels[row, :length] = words.ids_T[piece].where(words.target_T[piece], -100)
        at += length
    mask = torch.arange(longest) < words.lengths_B[:, None]
    expected = theirs(ids, attention_mask=mask.long(), labels=labels).loss
    found = ours.losses(batch)["next_token"]
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    assert isinstance(ours, Language)
    (by_ours,) = torch.autograd.grad(found, dict(ours.named_parameters())["language.blocks.0.attention.k.weight"])
    layers = theirs.model.layers if kind == "llama" else theirs.model.decoder.layers
    (by_theirs,) = torch.autograd.grad(expected, layers[0].self_attn.k_proj.weight)
    assert torch.allclose(by_ours, by_theirs, atol=1e-5)


def test_a_variant_that_we_lack_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    config = transformers.LlamaConfig(
        vocab_size=400, **COMMON, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="type 'dynamic' are not known"):
        chiasm.load(tmp_path)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"word_embed_proj_dim": 24}, "word_embed_proj_dim is 24"),
        ({"do_layer_norm_before": False}, "do_layer_norm_before"),
        ({"activation_function": "gelu"}, "activation_function"),
    ],
)
def test_an_opt_of_another_build_is_refused(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    transformers.OPTConfig(vocab_size=400, **{**COMMON, "ffn_dim": 80, **more}).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=told):
        chiasm.load(tmp_path)
