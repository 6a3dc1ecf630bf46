import pytest
import torch
import transformers
from torch import Tensor

from chiasm.errors import DataError, RecipeError
from chiasm.nn.bert import SIZES, Bert, Config, mean_over_tokens, transformers_name

TINY = Config(vocabulary=99, width=32, layers=3, heads=4, mlp_width=48, context=16, types=2, epsilon=1e-6)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _pair() -> tuple[Bert, transformers.BertModel]:
    """Ours and the peer with the same random weights."""
    peer = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=TINY.vocabulary,
            hidden_size=TINY.width,
            num_hidden_layers=TINY.layers,
            num_attention_heads=TINY.heads,
            intermediate_size=TINY.mlp_width,
            max_position_embeddings=TINY.context,
            type_vocab_size=TINY.types,
            layer_norm_eps=TINY.epsilon,
        )
    ).eval()
    for parameter in peer.parameters():  # fresh biases are 0 and norms 1: swapped names would not show
        torch.nn.init.normal_(parameter, std=0.3)
    bert, state = TINY.build().eval(), peer.state_dict()
    bert.load_state_dict({name: state.pop(transformers_name(name)) for name in bert.state_dict()})
    assert set(state) == {"pooler.dense.weight", "pooler.dense.bias"}
    return bert, peer


def _texts() -> tuple[Tensor, Tensor, Tensor]:
    ids_BT = torch.randint(1, TINY.vocabulary, (4, 11))  # id 0 has no gradient in the peer, padding or not
    mask_BT = torch.arange(11) < torch.tensor([11, 1, 6, 10])[:, None]
    return ids_BT, mask_BT, torch.randint(TINY.types, (4, 11))


def test_equals_transformers_with_padding_and_types() -> None:
    bert, peer = _pair()
    ids_BT, mask_BT, types_BT = _texts()
    with torch.inference_mode():
        expected = peer(ids_BT, attention_mask=mask_BT.long(), token_type_ids=types_BT).last_hidden_state
        hidden_BTD = bert(ids_BT, mask_BT, types_BT)
    torch.testing.assert_close(hidden_BTD[mask_BT], expected[mask_BT], atol=1e-5, rtol=0)
    assert hidden_BTD.shape == (4, 11, 32)


def test_equals_transformers_without_mask_and_types() -> None:
    bert, peer = _pair()
    ids_BT, _, _ = _texts()
    with torch.inference_mode():
        torch.testing.assert_close(bert(ids_BT), peer(ids_BT).last_hidden_state, atol=1e-5, rtol=0)


def test_gradients_equal_transformers() -> None:
    bert, peer = _pair()
    ids_BT, mask_BT, types_BT = _texts()
    bert(ids_BT, mask_BT, types_BT)[mask_BT].pow(3).mean().backward()
    expected_BTD = peer(ids_BT, attention_mask=mask_BT.long(), token_type_ids=types_BT).last_hidden_state
    expected_BTD[mask_BT].pow(3).mean().backward()
    theirs = dict(peer.named_parameters())
    for name, ours in bert.named_parameters():
        torch.testing.assert_close(ours.grad, theirs[transformers_name(name)].grad, atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing() -> None:
    bert, _ = _pair()
    ids_BT, mask_BT, _ = _texts()
    with torch.inference_mode():
        hidden_BTD = bert(ids_BT, mask_BT)
        for row, length in enumerate(mask_BT.sum(1).tolist()):
            alone_TD = bert(ids_BT[row : row + 1, :length])[0]
            torch.testing.assert_close(hidden_BTD[row, :length], alone_TD, atol=1e-5, rtol=0)


def test_without_types_only_their_embedding_is_gone() -> None:
    bert, _ = _pair()
    untyped = Config(**(vars(TINY) | {"types": 0})).build().eval()
    untyped.load_state_dict({name: one for name, one in bert.state_dict().items() if name != "types.weight"})
    ids_BT, mask_BT, _ = _texts()
    with torch.inference_mode():
        shifted_BTD = bert.encode(untyped.embed(ids_BT) + bert.state_dict()["types.weight"][0], mask_BT)
        torch.testing.assert_close(shifted_BTD, bert(ids_BT, mask_BT), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("size", "parameters"),  # of BertModel as published, pooler included
    [("base", 109_482_240), ("large", 335_141_888), ("minilm-l6", 22_713_216)],
)
def test_published_parameter_counts(size: str, parameters: int) -> None:
    with torch.device("meta"):
        bert = SIZES[size].build()
    pooler = (bert.config.width + 1) * bert.config.width
    assert sum(one.numel() for one in bert.parameters()) + pooler == parameters


def test_fresh_weights_follow_the_paper() -> None:
    bert = Config(vocabulary=500, width=128, layers=1, heads=2, mlp_width=256, context=64).build()
    for name, one in bert.state_dict().items():
        if "norm" not in name and name.endswith("weight") and one.numel() > 1000:
            assert float(one.std()) == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("bias"):
            assert not one.any(), name


def test_mean_over_tokens_sees_no_padding() -> None:
    hidden_BTD = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [torch.nan, 9.0]], [[5.0, 7.0], [9.0, 9.0], [9.0, 9.0]]])
    mask_BT = torch.tensor([[True, True, False], [True, False, False]])
    torch.testing.assert_close(mean_over_tokens(hidden_BTD, mask_BT), torch.tensor([[2.0, 4.0], [5.0, 7.0]]))


def test_mistakes_are_named() -> None:
    with pytest.raises(RecipeError, match="width 32 cannot be split into 5 heads"):
        Config(width=32, heads=5)
    with pytest.raises(DataError, match="17 tokens exceeds this encoder's context of 16"):
        TINY.build()(torch.zeros(1, 17, dtype=torch.long))
