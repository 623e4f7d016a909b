"""Which text encoders a run takes, and the sentence for every other."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    CanineConfig,
    CLIPConfig,
    CLIPTextConfig,
    ConvBertConfig,
    DebertaV2Config,
    FNetConfig,
    LongformerConfig,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
    T5Config,
    ViTConfig,
    XLNetConfig,
)

from configuration_hamlearning import HamLearningConfig
from conftest import ROOT
from hamlearning.training.run import main as run_mner
from hamlearning.training.text_encoders import check_text_encoder, has_unread_parameters
from modeling_hamlearning import HamLearningForTokenClassification
from tiny_world import flags, results_of


WIDE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
XLNET = {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 64}
# Configs of 40 positions, and the longest text of each; None: no limit. RoBERTa numbers positions from its padding on.
LIMITS = {
    "bert": (BertConfig(**WIDE, vocab_size=90, max_position_embeddings=40), 40),
    "roberta": (RobertaConfig(**WIDE, vocab_size=90, max_position_embeddings=40, pad_token_id=1), 38),
    "longformer": (LongformerConfig(**WIDE, vocab_size=90, max_position_embeddings=42, attention_window=8), 40),
    "clip_text": (CLIPTextConfig(**WIDE, vocab_size=90, max_position_embeddings=40), 40),
    "deberta-v2": (DebertaV2Config(**WIDE, vocab_size=90, max_position_embeddings=40), 40),
    "xlnet": (XLNetConfig(**XLNET, vocab_size=90), None),
    "modernbert": (
        ModernBertConfig(
            **WIDE, vocab_size=90, max_position_embeddings=40, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            cls_token_id=1, sep_token_id=2,
        ),
        None,
    ),
}  # fmt: skip


def encoder(config):
    torch.manual_seed(0)
    return AutoModel.from_config(config).eval()


def check(config, max_length):
    check_text_encoder(encoder(config), "--text_model tiny", max_length, "give --max_length {most}")


@pytest.mark.parametrize("name", LIMITS)
def test_an_encoder_that_reads_shorter_texts_says_the_most_that_fits(name):
    config, most = LIMITS[name]
    if most is None:
        check(config, 200)
        return
    check(config, most)
    sentence = (
        rf"--text_model tiny, of the type '.*', reads at most {most} sub-tokens at once, not {most + 1} \(.*give "
    )
    with pytest.raises(ValueError, match=rf"{sentence}--max_length {most}\. Longer tweets are read in windows"):
        check(config, most + 1)


@pytest.mark.parametrize(
    "config",
    [
        T5Config(d_model=32, d_ff=64, num_layers=1, num_heads=4, d_kv=8, vocab_size=90),
        ViTConfig(**WIDE, image_size=16, patch_size=8),
    ],
    ids=lambda config: config.model_type,
)
def test_what_does_not_read_texts_alone_is_refused_with_its_type(config):
    with pytest.raises(ValueError, match=f"of the type '{config.model_type}', does not read sub-tokens and a mask"):
        check(config, 32)


def test_an_encoder_that_reads_padding_as_text_is_refused():
    config = CanineConfig(**WIDE, num_hash_functions=4, num_hash_buckets=64)
    with pytest.raises(ValueError, match="of the type 'canine', reads padding as if it were text"):
        check(config, 32)


def test_an_encoder_that_reads_a_little_of_the_padding_is_named(caplog):
    check(ConvBertConfig(**WIDE, vocab_size=90, embedding_size=32), 32)
    assert "of the type 'convbert', reads a little of the padding behind a text" in caplog.text


def test_random_numbers_are_not_drawn_by_the_check():
    model, state = encoder(LIMITS["bert"][0]), torch.get_rng_state()
    check_text_encoder(model.train(), "tiny", 40, "")
    assert torch.equal(torch.get_rng_state(), state) and model.training


@pytest.mark.parametrize(("name", "expected"), [("deberta-v2", False), ("xlnet", True), ("longformer", True)])
def test_weights_that_have_no_part_in_what_is_said_are_found(name, expected):
    assert has_unread_parameters(encoder(LIMITS[name][0])) is expected


@pytest.mark.parametrize(
    "config",
    [
        CLIPConfig(text_config=WIDE, vision_config=WIDE | {"image_size": 16, "patch_size": 8}),
        FNetConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=64, vocab_size=90),
    ],
    ids=lambda config: config.model_type,
)
def test_a_config_that_is_of_no_text_encoder_is_refused_with_its_type(config):
    with pytest.raises(ValueError, match=f"The text encoder is of the type '{config.model_type}', which has no"):
        HamLearningForTokenClassification(HamLearningConfig(text_config=config))


def test_a_folder_of_a_vision_model_that_timm_saved_is_refused_with_its_type(tmp_path):
    timm = pytest.importorskip("timm")
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path)
    with pytest.raises(ValueError, match="The text encoder is of the type 'timm_wrapper', which has no hidden_size"):
        HamLearningForTokenClassification.from_text_pretrained(str(tmp_path))


def test_a_limit_that_the_encoder_has_not_is_refused_before_anything_is_written(world, tmp_path):
    argv = flags(world, tmp_path / "out", max_length=600)
    with pytest.raises(ValueError, match="reads at most 512 sub-tokens at once, not 600 .* give --max_length 512"):
        run_mner(argv)
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["longformer", "xlnet"])
def test_encoders_with_weights_that_nobody_reads_train_in_two_processes(name, world, tmp_path):
    config = {
        "longformer": LongformerConfig(**WIDE, max_position_embeddings=160, attention_window=8, pad_token_id=0),
        "xlnet": XLNetConfig(**XLNET, pad_token_id=0),
    }[name]
    tokenizer = AutoTokenizer.from_pretrained(world / "text_encoder")
    config.vocab_size = len(tokenizer)
    encoder(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    settings = {"text_model": tmp_path / "encoder", "num_train_epochs": 1, "per_device_train_batch_size": 8}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", ROOT / "run_mner.py",
         *flags(world, tmp_path / "out", **settings)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=world,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert results_of(tmp_path / "out")["training"]["world_size"] == 2


# Fields of configs, whatever their architecture calls them, and a small size of each.
SMALL = (
    dict.fromkeys("hidden_size d_model n_embd dim embedding_size emb_dim embed_dim projection_dim".split(), 32)
    | dict.fromkeys("num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers".split(), 2)
    | dict.fromkeys("num_attention_heads n_head n_heads num_heads num_key_value_heads".split(), 4)
    | dict.fromkeys("encoder_attention_heads decoder_attention_heads num_experts num_local_experts".split(), 4)
    | dict.fromkeys("intermediate_size d_ff d_inner encoder_ffn_dim decoder_ffn_dim hidden_dim ffn_dim".split(), 64)
    | dict.fromkeys("max_position_embeddings n_positions n_ctx max_source_positions".split(), 40)
    | dict.fromkeys("d_kv d_head head_dim attention_window".split(), 8)
    | {"n_inner": 64, "vocab_size": 90, "num_decoder_layers": 2, "moe_intermediate_size": 32}
    | {"pad_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
)
LARGEST = 30_000_000  # weights of what is called small


def small(config: PreTrainedConfig, depth: int = 0) -> PreTrainedConfig:
    """A config with the fields of `SMALL`, and so are those in it."""
    held = config.to_dict()
    fields = {
        name: size
        for name, size in SMALL.items()
        if name in held
        and not isinstance(held[name], dict)
        and (not isinstance(held[name], list) or name == "attention_window")
        and (held[name] is not None or name.endswith("_token_id"))
    }
    for name in held:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig) and depth < 3:
            fields[name] = small(part, depth + 1)
    return type(config)(**fields)


@contextmanager
def seconds(limit):
    def stop(*_):
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def made_small(config_class) -> HamLearningForTokenClassification:
    """A network around a tiny encoder of an architecture; skips what cannot be made by the fields of `SMALL`."""
    try:
        config = small(config_class())
        with torch.device("meta"):
            text_model = AutoModel.from_config(config)
        if sum(parameter.numel() for parameter in text_model.parameters()) > LARGEST:
            pytest.skip("not small by these fields")
        text_model = encoder(config)
        text_model(input_ids=torch.full((1, 8), 5))
    except TimeoutError:
        raise
    except Exception as error:  # each architecture has its own way of refusing sizes or texts
        if "input_ids" in str(error) or "pixel_values" in str(error):
            pytest.skip(f"reads no text alone: {error}")
        pytest.skip(f"not made by these fields: {type(error).__name__}")
    network = HamLearningConfig(text_config=config, use_vision=False, dropout=0.0)
    return HamLearningForTokenClassification(network, text_model=text_model).eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", sorted(t for t, c in CONFIG_MAPPING.items() if c in MODEL_MAPPING))
def test_every_architecture_reads_its_longest_text_or_is_refused_with_its_type(model_type):
    """A tiny one of random weights of each that `AutoModel` knows."""
    with seconds(120):
        try:
            model = made_small(CONFIG_MAPPING[model_type])
            check_text_encoder(model.model.text_model, "tiny", 12, "give {most}")
        except ValueError as refused:
            kind = CONFIG_MAPPING[model_type].model_type
            assert f"of the type {kind!r}" in str(refused), refused
            return
        try:
            check_text_encoder(model.model.text_model, "tiny", 130, "give {most}")
            most = 130
        except ValueError as refused:
            most = int(str(refused).rpartition(": give ")[2].split(".")[0])
            check_text_encoder(model.model.text_model, "tiny", most, "give {most}")
        ids = 4 + torch.arange(most)[None] % 80
        word_ids = torch.cat([torch.zeros(1, 1), torch.arange(1, most - 1)[None], -torch.ones(1, 1)], dim=1).long()
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids), word_ids=word_ids)
        assert torch.isfinite(alone.logits).all() and alone.predictions.shape == (1, most - 2)
        short, shown = torch.where(torch.arange(most) < 6, ids, 1), (torch.arange(most)[None] < 6).long()
        beside = model(
            input_ids=torch.cat([ids, short]),
            attention_mask=torch.cat([torch.ones_like(ids), shown]),
            word_ids=torch.cat([word_ids, torch.where(torch.arange(most) < 5, word_ids, -1)]),
        )
        torch.testing.assert_close(beside.logits[:1], alone.logits, atol=0.05, rtol=0.05)
