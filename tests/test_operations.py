"""What `benchmarks/operations.py` counts is what PyTorch does."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import ElectraConfig

from configuration_hamlearning import HamLearningConfig
from conftest import ROOT, TINY_SIZES


SCRIPT = ROOT / "benchmarks" / "operations.py"
MODULES = {
    "text encoder": "text_model",
    "textual Transformer": "text_layers",
    "FFNN": "ffnn",
    "visual embeddings": "visual_embeddings",
    "semantic view": "semantic_encoder",
    "spatial view": "spatial_encoder",
    "local-global": "local_global",
    "relevance": "relevance",
    "interaction": "interaction",
}
SWITCHES = [
    {},
    {"use_semantic_encoder": False},
    {"use_spatial_encoder": False},
    {"use_relevance": False},
    {"forced_relevance": 0.5},
    {"use_vision": False},
    {"num_text_layers": 0, "num_ffnn_layers": 0, "use_crf": False},
    {"num_text_layers": 2, "num_ffnn_layers": 3, "num_semantic_layers": 1, "num_spatial_layers": 3},
    {"num_interaction_layers": 1},
    {"num_interaction_layers": 1, "share_interaction_layers": False},
    {"num_interaction_layers": 5},
    {"num_interaction_layers": 4, "share_interaction_layers": False},
    {"num_labels": 3},
]


@pytest.fixture(scope="module")
def operations():
    spec = importlib.util.spec_from_file_location("operations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=SWITCHES, ids=lambda fields: ",".join(f"{k}={v}" for k, v in fields.items()) or "full")
def switches(request):
    return request.param


@pytest.fixture
def batch(make_batch):
    return make_batch(num_tags=3)


def sizes_of(batch) -> dict[str, int]:
    tweets, subtokens = batch["input_ids"].shape
    regions = batch["region_mask"].shape[1] if "region_mask" in batch else 0
    return {"tweets": tweets, "subtokens": subtokens, "words": batch["labels"].shape[1], "regions": regions}


def flops_of_cpu_attention(query, key, value, *args, out_shape=None, **kwargs):
    return sdpa_flop_count(query, key, value)  # PyTorch's own counter leaves this kernel out


def counting_flops() -> FlopCounterMode:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: flops_of_cpu_attention})


def multiply_adds_by_module(model, batch) -> dict[str, int]:
    with counting_flops() as counter, torch.no_grad():
        model(**batch)
    return {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}


class ProductTraffic(TorchDispatchMode):
    """Elements that the products of matrices read of weights, and read and write of activations."""

    def __init__(self, model):
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.weights_read = self.activations_moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "_scaled_dot_product_flash_attention_for_cpu"):
            for operand in (arg for arg in args[:3] if arg.dim() > 1):  # a bias is no matrix
                if operand.untyped_storage().data_ptr() in self.weights:
                    self.weights_read += operand.numel()
                else:
                    self.activations_moved += operand.numel()
            self.activations_moved += (out[0] if isinstance(out, tuple) else out).numel()
        return out


class CRFScores(TorchDispatchMode):
    """Scores of pairs of tags that are summed or compared at a step of a chain."""

    def __init__(self):
        super().__init__()
        self.scores = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("logsumexp", "max") and args[0].dim() > 2 and args[0].shape[-1] == args[0].shape[-2]:
            self.scores[name] += args[0].numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_forward_products_are_those_of_pytorch_part_by_part(operations, make_model, batch, switches, attention):
    model = make_model(**switches)
    model.set_attn_implementation(attention)
    parts = operations.count_operations(model.config, **sizes_of(batch))
    found = multiply_adds_by_module(model, batch)

    of_module = {}
    for part, module in MODULES.items():
        name = f"{type(model).__name__}.model.{module}"
        layers = (f"{name}.{index}" for index in range(9))  # a list of layers is never called itself
        of_module[part] = found[name] if name in found else sum(found.get(layer, 0) for layer in layers)
    counted = {part: parts[part].multiply_adds if part in parts else 0 for part in MODULES}
    assert counted == of_module
    assert parts["classifier"].multiply_adds == found[f"{type(model).__name__}.classifier"]
    products = sum(part.multiply_adds for name, part in parts.items() if name != "CRF")
    assert products == found["Global"]


def test_training_products_are_those_of_pytorch(operations, make_model, batch, switches):
    model = make_model(**switches).train()
    model.set_attn_implementation("eager")  # the fused kernel computes its scores again for the gradient
    parts = operations.count_operations(model.config, **sizes_of(batch))
    with counting_flops() as counter:
        model(**batch).loss.backward()
    assert sum(part.training for name, part in parts.items() if name != "CRF") == counter.get_total_flops() // 2


def test_parameters_are_those_of_the_network(operations, make_model, batch, switches):
    model = make_model(**switches)
    parts = operations.count_operations(model.config, **sizes_of(batch))
    assert sum(part.parameters for part in parts.values()) == model.num_parameters()
    found = {part: getattr(model.model, module, None) for part, module in MODULES.items()}
    found = {part: sum(p.numel() for p in module.parameters()) for part, module in found.items() if module is not None}
    assert {part: parts[part].parameters if part in parts else 0 for part in found} == found


def test_traffic_is_what_the_products_read_and_write(operations, make_model, batch, switches):
    model = make_model(**switches)
    del batch["labels"]
    words = int(batch["word_ids"].max())
    parts = operations.count_operations(model.config, **sizes_of(batch | {"labels": torch.zeros(1, words)}))
    with torch.no_grad(), ProductTraffic(model) as traffic:
        model(**batch)
    assert sum(part.weights_read for part in parts.values()) == traffic.weights_read
    moved = sum(part.activations_moved for name, part in parts.items() if name != "CRF")
    assert moved == traffic.activations_moved


@pytest.mark.parametrize("text", ["bert", "roberta", "mpnet", "distilbert"])
def test_text_encoders_of_berts_kind_are_counted(operations, make_model, batch, text):
    model = make_model(text)
    encoder = operations.count_operations(model.config, **sizes_of(batch))["text encoder"]
    assert encoder.multiply_adds == multiply_adds_by_module(model, batch)[f"{type(model).__name__}.model.text_model"]
    assert encoder.parameters == model.model.text_model.num_parameters()


def test_another_text_encoder_is_refused(operations):
    config = HamLearningConfig(text_config=ElectraConfig(embedding_size=16))
    with pytest.raises(ValueError, match="electra"):
        operations.count_operations(config, 2, 8, 6, 3)


def test_pictures_without_regions_count_as_one_region(operations, make_model, make_batch):
    batch = make_batch(regions=(0, None, 0, 0))
    model = make_model()
    parts = operations.count_operations(model.config, **sizes_of(batch))
    products = sum(part.multiply_adds for name, part in parts.items() if name != "CRF")
    assert products == multiply_adds_by_module(model, batch)["Global"]


def test_crf_counts_the_scores_of_its_inference(operations, make_model, batch):
    model = make_model()
    crf = operations.count_operations(model.config, **sizes_of(batch))["CRF"]
    del batch["labels"]
    with torch.no_grad(), CRFScores() as found:
        model(**batch)
    assert crf.multiply_adds == found.scores.total()


def test_crf_counts_the_scores_of_its_likelihood(operations, make_model, batch):
    model = make_model().train()
    crf = operations.count_operations(model.config, **sizes_of(batch))["CRF"]
    with CRFScores() as found:
        model(**batch)
    assert crf.training == 3 * found.scores.total()


def test_growth_in_the_end_is_the_known_one(operations, make_model, batch):
    config = make_model().config
    exponents = operations.growth(config, **sizes_of(batch))
    in_the_end = {
        size: {part: pair[1] for part, pair in parts.items() if pair[1]} for size, parts in exponents.items()
    }
    assert in_the_end["W"]["text encoder"] == in_the_end["W"]["textual Transformer"] == 2
    assert in_the_end["W"]["interaction"] == in_the_end["W"]["CRF"] == 1
    assert in_the_end["N"] == {
        "visual embeddings": 1, "semantic view": 2, "spatial view": 2, "local-global": 1, "interaction": 1, "all": 2
    }  # fmt: skip
    assert in_the_end["T"] == {"classifier": 1, "CRF": 2, "all": 2}
    assert in_the_end["L"] == {"interaction": 1, "all": 1}


def test_growth_here_compares_with_twice_the_size(operations, make_model):
    config, twice = make_model().config, make_model(num_interaction_layers=6).config
    sizes = {"tweets": 2, "subtokens": 9, "words": 7, "regions": 3}
    before, after = (operations.count_operations(c, **sizes)["interaction"].multiply_adds for c in (config, twice))
    here, _ = operations.growth(config, **sizes)["L"]["interaction"]
    assert 2**here == pytest.approx(after / before)


def test_command_line_reads_a_saved_config(make_model, tmp_path):
    make_model().config.save_pretrained(tmp_path)
    command = [SCRIPT, tmp_path, "--regions", "3", "--set", "use_spatial_encoder=false"]
    command += ["--json", tmp_path / "counts"]
    run = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "counts").read_text())
    assert "spatial view" not in figures["parts"]
    embeddings = figures["parts"]["visual embeddings"]
    assert embeddings["multiply_adds"] == 32 * 32 * (12 + 3 * (TINY_SIZES["region_feature_size"] + 6))
    assert "| interaction |" in run.stdout
