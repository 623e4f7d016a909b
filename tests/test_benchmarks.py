"""The benchmarks of the network count what runs, and each is one command."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torchcrf import CRF

from conftest import ROOT


sys.path.append(str(ROOT / "benchmarks"))
import growth
import inference
import memory
import operations
import scaling
import speed_changes
import text_speed
import training_step
import workload
from kernel_counts import Kernel, counted_kernels, step_kernels


SIZES = {"tweets": 3, "subtokens": 9, "words": 5, "regions": 4}
FAST = scaling.Device("fast", {"fp32": 1e3, "bf16": 1e4}, 1e2, compute_share=0.5, bandwidth_share=0.5)


def kernel(products=0, bytes_=0, part="rest, forward", dtype=torch.float32) -> Kernel:
    return Kernel("mm", part, products, 1, bytes_, dtype)


def step(model, batch):
    model(**batch).loss.backward()
    model.zero_grad()


@pytest.fixture
def folder(make_model, tmp_path) -> str:
    """With the config of a tiny network."""
    make_model(num_semantic_layers=1, dropout=0.1).config.save_pretrained(tmp_path / "config")
    return str(tmp_path / "config")


@pytest.fixture
def command(folder, tmp_path, monkeypatch, capsys):
    """`command(module, *arguments)` runs a benchmark; returns what it prints and its file."""

    def run(module, *arguments, config=folder):
        file = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", [module.__name__, config, *map(str, arguments), "--json", str(file)])
        module.main()
        return capsys.readouterr().out, json.loads(file.read_text())

    return run


# ------------------------------------------------------------------------------------------------------------ workload


def test_made_up_tweets_have_the_median_lengths_of_twitter_2017():
    tweets, tokenizer = workload.made_up_tweets(999, np.random.default_rng(0))
    assert np.median([len(tokens) for tokens in tweets["tokens"]]) == pytest.approx(15, abs=1)
    lengths = [len(tokenizer(tokens, is_split_into_words=True)["input_ids"]) for tokens in tweets["tokens"]]
    assert np.median(lengths) == pytest.approx(19, abs=1)


def test_a_random_batch_has_the_sizes_asked_for(make_model):
    batch = workload.random_batch(make_model().config, **SIZES)
    assert workload.sizes_of(batch) == SIZES
    assert batch["word_ids"].unique().tolist() == [-1, 0, 1, 2, 3, 4, 5]


def test_regions_of_a_random_batch_lie_in_the_picture(make_model):
    boxes = workload.random_batch(make_model().config, **SIZES)["region_boxes"]
    centres, extents = boxes[..., :2], boxes[..., 2:].flip(-1)  # (x, y) and (w, h)
    assert (centres - extents / 2 >= -1e-6).all() and (centres + extents / 2 <= 1 + 1e-6).all()


def test_rounds_alternate_and_the_first_is_not_timed():
    calls = []
    seconds = workload.time_rounds({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_tweets_without_a_tokenizer_are_refused(command):
    with pytest.raises(ValueError, match="--tokenizer"):
        command(inference, "--data_dir", "tweets")


# ------------------------------------------------------------------------------------------------------------- kernels


@pytest.fixture
def config(make_model):
    """Of a tiny network with dropout: without it a CPU, too, has attention in one kernel."""
    config = make_model(dropout=0.1).config
    config.text_config.attention_probs_dropout_prob = 0.1
    return config


@pytest.mark.parametrize("on_gpu", [False, True])
def test_products_of_a_step_are_those_counted_from_the_config(config, on_gpu):
    found = step_kernels(config, SIZES, "fp32", training=True, on_gpu=on_gpu)
    parts = operations.count_operations(config, **SIZES)
    counted = 2 * sum(part.training for name, part in parts.items() if name != "CRF")
    products = sum(kernel.products for kernel in found)
    # The fused kernel computes its scores again for the gradient.
    assert products == counted if not on_gpu else counted < products < 1.05 * counted


def test_fake_tensors_start_the_kernels_of_real_ones(make_model):
    model = make_model(dropout=0.1).train()
    batch = workload.random_batch(model.config, **SIZES)
    real = counted_kernels(lambda: step(model, batch))
    fake = step_kernels(model.config, SIZES, "fp32", training=True, on_gpu=False)
    assert [(k.name, k.products, k.bytes) for k in fake] == [(k.name, k.products, k.bytes) for k in real]


def test_kernels_of_a_step_belong_to_their_parts(config):
    found = step_kernels(config, SIZES, "fp32", training=True, on_gpu=False)
    parts = operations.count_operations(config, **SIZES)
    for name in training_step.MODULES.keys() - {"CRF"}:
        of_way = {way: sum(k.products for k in found if k.part == f"{name}, {way}") for way in ("forward", "backward")}
        assert of_way["forward"] == 2 * parts[name].multiply_adds
        assert of_way["backward"] == 2 * (parts[name].training - parts[name].multiply_adds)


def test_dropout_is_one_kernel_on_a_gpu(config):
    names = [found.name for found in step_kernels(config, SIZES, "fp32", training=True, on_gpu=True)]
    assert "aten.native_dropout" in names
    assert "aten.bernoulli_" not in names


def test_tagging_in_bf16_has_its_weights_in_bf16(make_model):
    found = step_kernels(make_model().config, SIZES, "bf16", training=False, on_gpu=True)
    assert {kernel.dtype for kernel in found if kernel.products} == {torch.bfloat16}
    in_fp32 = step_kernels(make_model().config, SIZES, "fp32", training=False, on_gpu=True)
    assert sum(kernel.products for kernel in found) == sum(kernel.products for kernel in in_fp32)


def test_bytes_are_those_of_operands_and_result():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    (found,) = counted_kernels(lambda: a @ b)
    assert (found.products, found.bytes) == (2 * 3 * 5 * 7, 4 * (15 + 35 + 21))


def test_an_expanded_operand_is_read_as_small_as_it_is():
    (found,) = counted_kernels(lambda: torch.ones(100) + torch.ones(1).expand(100))[-1:]
    assert found.bytes == 4 * (100 + 1 + 100)


def test_a_lookup_reads_the_rows_that_it_finds():
    table = torch.randn(1000, 8)
    (found,) = counted_kernels(lambda: nn.functional.embedding(torch.tensor([1, 2]), table))[-1:]
    assert found.bytes == 2 * 4 * 2 * 8


def test_a_view_is_no_kernel():
    states = torch.randn(4, 6)
    assert counted_kernels(lambda: states.view(3, 8).t()[1:]) == []


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.fixture
def measured(folder, tmp_path):
    """`measured(precision)`, of a batch of eight tweets with captions."""

    def measure(precision):
        tweets, tokenizer = workload.made_up_tweets(12, np.random.default_rng(0))
        return memory.measure(precision, folder, "captions", tweets, tokenizer, 8, str(tmp_path))

    return measure


def test_the_peak_holds_weights_states_and_all_activations(measured):
    found = measured("fp32")
    held = found["parameters"] + found["states"] + found["encoder_activations"] + found["other_activations"]
    assert held <= found["peak"] <= held + found["gradients"] + found["other_activations"]
    assert 2 * found["parameters"] <= found["states"] <= 2.1 * found["parameters"]  # AdamW's, and its steps


def test_ratio_is_the_peak_over_what_a_step_must_hold(measured):
    found = measured("fp32")
    least = found["parameters"] + found["gradients"] + found["states"] + found["encoder_activations"]
    assert found["ratio"] == found["peak"] / least


def test_copies_of_weights_are_no_activations(make_model):
    model = make_model().train()
    batch = workload.random_batch(model.config, **SIZES)
    copies = {}
    for precision in ("fp32", "bf16"):
        with memory.SavedBytes(model) as saved, workload.autocast(model.device, precision):
            model(**batch)
        copies[precision] = saved.copies
    # Features of pictures take no gradient, so the matrices that they are multiplied by are not kept.
    visual = model.model.visual_embeddings
    kept = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    kept += [layer.relation_weight for layer in model.model.spatial_encoder.layers]
    matrices = sum(weight.numel() for weight in kept)
    matrices -= visual.image_projection.weight.numel() + visual.region_projection.weight.numel()
    assert copies == {"fp32": 0, "bf16": 2 * matrices}


def test_saved_bytes_count_a_storage_once(make_model):
    model = make_model().train()
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    batch = workload.random_batch(model.config, **SIZES)
    with memory.SavedBytes(model) as saved:
        model(**batch)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch)
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    assert saved.encoder + saved.other == sum(storage.nbytes() for storage in storages.values())
    assert saved.encoder > 0


# -------------------------------------------------------------------------------------------------------------- growth


def test_slope_is_the_exponent():
    assert growth.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


@pytest.mark.parametrize("term", growth.TERMS, ids=lambda term: f"{term.name}, {term.quantity}")
@torch.no_grad()
def test_a_term_grows_as_expected_in_what_is_counted(term):
    counted = [sum(kernel.operations for kernel in counted_kernels(term.make(size))) for size in term.sizes]
    assert growth.slope(term.sizes, counted) == pytest.approx(term.exponent, abs=0.15)


@pytest.mark.parametrize("quantity", growth.STEP_SIZES)
def test_a_training_step_grows_by_what_it_is_asked_to(folder, quantity):
    small, large = (growth.training_step(folder, "fp32", quantity, size) for size in (4, 8))
    operations_ = [sum(kernel.operations for kernel in counted_kernels(run)) for run, _ in (small, large)]
    assert operations_[0] < operations_[1]
    assert small[1] < large[1]


# ----------------------------------------------------------------------------------------------------------- inference


def test_every_batch_size_tags_every_tweet():
    batches = inference.batches_by_size(list(range(7)), list, [1, 3])
    assert batches == {"batch 1": [[n] for n in range(7)], "batch 3": [[0, 1, 2], [3, 4, 5], [6]]}


def test_tweets_by_length_have_it(folder):
    config = workload.kind_config(folder, "captions")
    (batch,) = inference.batches_by_length(config, "captions", 4, [16])["16 sub-tokens"]
    assert workload.sizes_of(batch) == {"tweets": 4, "subtokens": 16, "words": 12, "regions": 2}


def test_multiply_adds_of_batches_are_counted_as_they_are_padded(folder):
    config = workload.kind_config(folder, "captions")
    (batch,) = inference.batches_by_length(config, "captions", 4, [16])["16 sub-tokens"]
    parts = operations.count_operations(config, tweets=4, subtokens=16, words=12, regions=2)
    once = sum(part.multiply_adds for part in parts.values())
    assert inference.multiply_adds(config, [batch, batch]) == 2 * once


# ------------------------------------------------------------------------------------------------------------- scaling


def test_a_kernel_takes_as_long_as_the_slower_of_operations_and_bytes():
    assert FAST.seconds(kernel(products=1000, bytes_=50)) == 2
    assert FAST.seconds(kernel(products=1000, bytes_=500)) == 10


def test_products_in_bf16_have_their_own_peak():
    assert FAST.seconds(kernel(products=10_000, dtype=torch.bfloat16)) == 2


def test_a_step_takes_as_long_as_the_slower_of_device_and_host():
    device = scaling.Device("slow host", {"fp32": 1e3}, 1e2, launch=3)
    assert device.step_seconds([kernel(products=1000)] * 2) == 6
    assert device.step_seconds([kernel(products=9000)] * 2) == 18
    assert device.step_seconds([kernel(products=1000)] * 2, graphs=True) == 2


def test_on_a_cpu_starting_kernels_adds_to_their_time():
    device = scaling.Device("CPU", {"fp32": 1e3}, 1e2, launch=3, overlaps=False)
    assert device.step_seconds([kernel(products=1000)] * 2) == 8


def test_one_gpu_reduces_nothing_and_many_twice_the_bytes():
    device = scaling.Device("linked", {}, 1, nvlink=100e9, network=5e9)
    assert scaling.all_reduce(device, 1e9, 1) == 0
    assert scaling.all_reduce(device, 1e9, 8) == pytest.approx(2 * 7 / 8 / 100, rel=0.1)
    assert scaling.all_reduce(device, 1e9, 1000) == pytest.approx(2 / 40, rel=0.1)


def test_a_long_backward_pass_hides_all_but_the_last_bucket(make_model):
    device = scaling.Device("linked", {"fp32": 1.0}, 1.0, nvlink=1e3, network=1e3)
    config = make_model().config
    whole = scaling.all_reduce(device, 4 * scaling.num_parameters(config), 8)
    assert scaling.exposed(device, config, [], 8) == pytest.approx(whole)
    scaling_last = scaling.exposed(device, config, [kernel(products=1e9, part="FFNN, backward")], 8)
    assert scaling_last == scaling.all_reduce(device, min(scaling.BUCKET, 4 * scaling.num_parameters(config)), 8)


def test_the_weight_of_a_row_is_that_of_the_file(tmp_path):
    tweets, tokenizer = workload.made_up_tweets(64, np.random.default_rng(0))
    config = workload.kind_config("minilm", "regions")
    pictures = workload.make_collator(config, "regions", tweets, tokenizer).visual_features
    rows = [{"id": id_, "scores": np.zeros(15), **picture} for id_, picture in pictures.items()]
    names = [str(index) for index in range(config.num_classes)]
    metadata = {"image_feature_size": 2048, "region_feature_size": 2048, "class_names": names}
    scaling.write_visual_features(tmp_path / "features.parquet", rows, metadata)
    weight = (tmp_path / "features.parquet").stat().st_size / len(rows)
    assert scaling.feature_bytes(config, "regions") == pytest.approx(weight, rel=0.15)


@pytest.mark.parametrize(
    "value, shown",
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (15, "15.0"), (999.6, "1,000"), (123_456, "123,000")],
)
def test_numbers_have_three_digits(value, shown):
    assert scaling.number(value) == shown


def test_a_table_takes_the_place_of_the_old_one():
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    assert scaling.put_into(page, {"x": ["new", "table"]}) == page.replace("old", "new\ntable")


def test_a_page_without_a_place_for_a_table_is_refused():
    with pytest.raises(ValueError, match="'y'"):
        scaling.put_into("<!-- x -->\n<!-- end of x -->", {"y": []})


@pytest.mark.slow
def test_the_page_has_the_tables_of_the_script():
    page = scaling.PAGE.read_text(encoding="utf-8")
    tables = scaling.counted_tables(list(operations.PRESETS), scaling.DEVICES)
    if tables["versions"][0] not in page:
        pytest.skip(f"the page is of other versions, whose kernels may differ: {tables['versions'][0]}")
    assert scaling.put_into(page, tables) == page


# ------------------------------------------------------------------------------------------------------------ commands


@pytest.mark.slow
def test_training_step_reports_every_part_and_a_trace(command, tmp_path):
    trace = tmp_path / "trace.json"
    arguments = ("--tweets", 8, "--batch_size", 4, "--rounds", 1, "--precisions", "fp32", "--trace", trace)
    printed, figures = command(training_step, *arguments)
    seconds = figures["step"]["captions fp32"]["part_seconds"]
    for part in training_step.MODULES:
        assert seconds[f"{part}, forward"] > 0 and seconds[f"{part}, backward"] > 0
    assert figures["step"]["captions fp32"]["over_limit"] > 1
    assert "| spatial view |" in printed and "times the limit" in printed
    assert "interaction" in {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}


@pytest.mark.slow
def test_inference_reports_every_point(command):
    arguments = ("--tweets", 4, "--batch_sizes", 1, 4, "--lengths", 8, "--batch_size", 2, "--rounds", 1)
    printed, figures = command(inference, *arguments)
    cases = [f"{kind} {precision}" for kind in workload.KINDS for precision in workload.PRECISIONS]
    assert list(figures["tweets_per_second"]) == cases
    points = figures["tweets_per_second"]["text bf16"]
    assert set(points) == {"batch 1", "batch 4", "8 sub-tokens"}
    assert points["batch 1"]["over_limit"] > points["batch 4"]["over_limit"] > 1
    assert "| regions fp32 |" in printed


@pytest.mark.slow
def test_memory_reports_a_point_of_a_process_of_its_own(command):
    arguments = ("--tweets", 4, "--batch_sizes", 4, "--kinds", "text", "--precisions", "bf16")
    printed, figures = command(memory, *arguments)
    assert figures["bytes"]["text bf16 4"]["copies"] > 0
    assert "| text bf16 | 4 |" in printed


def test_memory_refuses_a_batch_of_more_tweets_than_there_are(command):
    with pytest.raises(ValueError, match="--batch_sizes 64 of --tweets 8"):
        command(memory, "--tweets", 8)


@pytest.mark.slow
def test_growth_reports_time_beside_the_expected_exponents(command):
    printed, figures = command(growth, "--rounds", 1, "--precisions", "fp32")
    assert len(figures["terms"]) == len(growth.TERMS)
    assert [row["quantity"] for row in figures["steps"]] == list(growth.STEP_SIZES)
    for row in figures["steps"]:  # at width 32 the CRF and LayerNorms, which operations.py leaves out, are not small
        assert row["exponent_of_operations"] == pytest.approx(row["exponent_expected"], abs=0.1)
    assert "exponent of time" in printed


@pytest.mark.slow
def test_scaling_checks_every_part_on_the_cpu(command, folder):
    arguments = ("--check", folder, "--tweets", 8, "--batch_size", 4, "--rounds", 1, "--precisions", "fp32")
    printed, tables = command(scaling, *arguments)
    checked = {line.split(" | ")[1] for line in tables["check"][2:]}
    assert checked == {*training_step.MODULES, "rest", "optimiser", "all"}
    assert "rows with regions, one core, a second" in printed


# ------------------------------------------------------------------------------------------------------- speed changes


def test_crf_beside_the_library_s_gives_what_it_gives():
    contestants = speed_changes.crf_contestants()
    crf, emissions, tags, mask = speed_changes.crf_batch()
    assert torch.allclose(crf(emissions, tags, mask), CRF.forward(crf, emissions, tags, mask))
    assert contestants.keys() == {"loss", "loss, pytorch-crf", "tags", "tags, pytorch-crf"}
    for contestant in contestants.values():
        contestant()


@pytest.mark.slow
def test_speed_changes_reports_every_row(command):
    printed, figures = command(speed_changes, "--tweets", 32, "--rounds", 1)
    assert figures["over_default"].keys() == set(speed_changes.changes(figures["tokens_per_batch"]))
    assert figures["over_default"]["default"] == 1
    assert "| --torch_compile |" in printed


# ------------------------------------------------------------------------------------------- several tweets in a row


def test_tweets_of_a_row_fit_in_it_and_each_is_in_one_row():
    lengths = [7, 3, 9, 5, 2, 10, 4]
    rows = text_speed.pack(lengths, row=10)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert [sum(lengths[place] for place in row) for row in rows] == [10, 9, 10, 9, 2]


def test_padding_is_counted_in_batches_of_like_length():
    assert text_speed.padding([4, 1, 3, 2], size=2) == (2 * 2 + 2 * 4) / 10


def test_a_tweet_has_the_same_states_alone_and_in_a_row_of_several(make_model):
    encoder = make_model().model.text_model.eval()
    rng = np.random.default_rng(1)
    tweets = [rng.integers(5, 20, length).tolist() for length in (7, 3, 9, 5, 2)]
    (batch,) = text_speed.packed_batches(tweets, row=10, size=len(tweets))
    batch["attention_mask"] = batch["attention_mask"].float()
    with torch.no_grad():
        packed = encoder(**batch).last_hidden_state
        for index, places in enumerate(text_speed.pack([len(ids) for ids in tweets], row=10)):
            end = 0
            for place in places:
                begin, end = end, end + len(tweets[place])
                alone = encoder(input_ids=torch.tensor([tweets[place]])).last_hidden_state[0]
                torch.testing.assert_close(packed[index, begin:end], alone, rtol=0, atol=1e-5)
