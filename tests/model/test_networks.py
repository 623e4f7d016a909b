"""The vision model's networks as OpenVINO computes them: what it can, when, and what is kept of it."""

import copy
import functools
import gc
import multiprocessing
import os
import pickle
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_modeling_vision import lively
from torch import nn

import networks_hamlearning
from configuration_hamlearning import HamLearningVisionConfig
from conftest import ROOT
from modeling_faster_rcnn_vg import ROIHeads, to_whole_cells, unsure_widths
from modeling_hamlearning_vision import FasterRCNNVGDetector, HamLearningVisionModel
from networks_hamlearning import CannotConvertError, Network, Part, convert, fold_batch_norms, load_or_compile


VG = {
    "min_size": 160, "max_size": 1100, "num_blocks": [1, 1, 1, 1], "stem_channels": 4, "bottleneck_channels": 4,
    "res2_channels": 8, "rpn_channels": 8, "num_classes": 12, "num_attributes": 5, "anchor_sizes": [32, 64],
}  # fmt: skip


def make_vision_model(architecture: str = "test_resnet", **fields) -> HamLearningVisionModel:
    sizes = {"resize_size": 72, "crop_size": 64, "detector": "grid"} | fields
    backbone = {"architecture": architecture}
    return lively(HamLearningVisionModel(HamLearningVisionConfig(global_backbone_config=backbone, **sizes)))


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        for width, height in ((80, 70), (64, 100), (80, 70), (64, 64))
    ]


def assert_close(found: list, expected: list, tolerance: float = 1e-5) -> None:
    """Each row's arrays, relative to the largest value."""
    for row, other in zip(found, expected, strict=True):
        for name, values in other.items():
            np.testing.assert_allclose(row[name], values, rtol=0, atol=tolerance * max(np.abs(values).max(), 1))


def by_torch(vision: HamLearningVisionModel) -> list:
    vision = copy.deepcopy(vision)
    vision.runtime = "torch"
    return vision.extract_images(pictures())


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr(networks_hamlearning, "CACHE", tmp_path / "networks")
    return tmp_path / "networks"


@pytest.fixture
def no_conversion(monkeypatch):
    def fail(part):
        raise AssertionError("a network was converted")

    return lambda: monkeypatch.setattr(networks_hamlearning, "convert", fail)


@pytest.fixture
def asked(monkeypatch) -> list:
    """What is asked of a proxy, by this process's children: the first line of each request."""
    asked: list[bytes] = []

    class Note(socketserver.StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Note) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_address[1]}")
        for name in ("CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL", "NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)  # where it says nothing by itself
        yield asked
        server.shutdown()


@pytest.mark.parametrize(
    "code", ["import networks_hamlearning; networks_hamlearning.openvino()", "import exported_hamlearning"]
)
def test_openvino_tells_nobody_that_it_was_imported(code, asked, tmp_path):
    environment = os.environ | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)
    assert asked == []


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "architecture, fields",
    [
        ("test_resnet", {}),
        ("test_efficientnet", {}),
        ("test_vit", {"fixed_input_size": True, "resize_size": 160, "crop_size": 160}),
    ],
)
def test_features_are_pytorchs_within_rounding(architecture, fields):
    vision = make_vision_model(architecture, **fields)
    assert_close(vision.extract_images(pictures()), by_torch(vision))
    assert all(network is not None for network in vision.networks.found.values())


def test_features_do_not_depend_on_the_batch_bit_for_bit():
    vision = make_vision_model()
    alone = [vision.extract_images([picture])[0] for picture in pictures()]
    for row, other in zip(vision.extract_images(pictures()), alone, strict=True):
        assert all(np.array_equal(row[name], other[name]) for name in row)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pictures_that_share_the_threads_have_the_numbers_of_one_by_one(precision, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    vision = make_vision_model("resnet18")
    part = vision._backbone_part(is_free=True)
    network = Network(functools.partial(load_or_compile, "global_backbone", part, precision, None))
    batch = [(torch.randint(0, 256, (1, 3, 64, width), dtype=torch.uint8),) for width in (64, 80, 64, 96, 72)]
    expected = [network(*inputs) for inputs in batch]
    found = network.map(batch)
    assert network.queue is not None and len(network.queue) == 2
    for (one,), (other,) in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_pytorch_batches_pictures_of_one_size_within_rounding():
    vision = make_vision_model()
    vision.runtime = "torch"
    assert_close(vision.extract_images(pictures()), [vision.extract_images([picture])[0] for picture in pictures()])


def test_a_picture_that_is_its_own_crop_goes_through_once(monkeypatch):
    vision = make_vision_model(resize_size=64)
    square = pictures()[3]
    row = vision.extract_images([square])[0]
    calls, compute = [], Network.__call__
    monkeypatch.setattr(Network, "__call__", lambda self, *inputs: calls.append(1) or compute(self, *inputs))
    again = vision.extract_images([square])[0]
    assert len(calls) == 1 and np.array_equal(again["features"], row["features"])


def test_changed_weights_are_computed_with():
    vision = make_vision_model()
    before = vision.extract_images(pictures())
    vision.load_state_dict(lively(make_vision_model(), seed=1).state_dict())
    after = vision.extract_images(pictures())
    assert not np.allclose(after[0]["image_features"], before[0]["image_features"], atol=1e-2)
    assert_close(after, by_torch(vision))


def test_weights_of_half_precision_are_pytorchs():
    vision = make_vision_model().to(torch.bfloat16)
    vision.extract_images(pictures())
    assert [*vision.networks.found.values()] == [None, None]


@pytest.mark.parametrize("width", [57, 62])  # cells, over which `roi_pool` takes one more than it would exactly
def test_regions_of_an_unsure_width_are_pooled_as_roi_pool_does(width):
    config = HamLearningVisionConfig(
        global_backbone_config={"architecture": "test_resnet"}, detector="faster_rcnn_vg", detector_settings=VG
    )
    detector = lively(FasterRCNNVGDetector(config))
    feature_map = torch.rand(1, 32, 20, 70)
    proposals = torch.tensor([[16.0, 16, 160, 100], [48, 0, 16 * (width + 2), 90], [8, 24, 200, 128]])
    expected, _ = detector.read_regions(feature_map, proposals)
    vision = make_vision_model(detector="faster_rcnn_vg", detector_settings=VG)
    detector.find_network = vision._network
    found, predictions = detector.read_regions(feature_map, proposals)
    assert unsure_widths(to_whole_cells(proposals), 14).tolist() == [False, True, False]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert all(len(values) == 3 for values in predictions)


def test_proposals_are_rounded_to_cells_as_roi_pool_does():
    torch.manual_seed(0)
    feature_map = torch.rand(1, 2, 30, 40)
    corners = (torch.rand(200, 2, 2) * torch.tensor([640, 480]) / 8).round() * 8  # each second one halfway
    proposals = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    pooled = ROIHeads.pool(type("Heads", (), {"pooled_size": 5})(), feature_map, proposals)
    again, _ = torch.ops.torchvision.roi_pool(feature_map, to_whole_cells(proposals), 1.0, 5, 5)
    assert torch.equal(pooled, again)


# ------------------------------------------------------------------------------------------- what cannot be converted


class OfOneSize(nn.Module):
    """A network that tracing makes one of a single size of: it reads its input's size in Python."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.convolution(pixels) * float(pixels.shape[3]),)


def test_a_network_that_was_traced_for_one_size_is_none_of_other_sizes():
    inputs = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 12)
    assert convert(Part(OfOneSize(), inputs[:1]))
    with pytest.raises(CannotConvertError, match="1x3x8x12 give"):
        convert(Part(OfOneSize(), inputs[:1], (inputs[1:],), ((2, 3),)))


def test_what_cannot_be_converted_is_pytorchs_and_is_said_once(monkeypatch, caplog, cache):
    vision = make_vision_model()
    network, stem = vision.global_backbone.timm_model, vision.global_backbone.timm_model.forward_features
    monkeypatch.setattr(network, "forward_features", lambda pixels: stem(pixels) * float(pixels.shape[3] / 64))
    vision.runtime = "torch"
    expected = vision.extract_images(pictures())
    vision.runtime = None
    for _ in range(2):
        assert_close(vision.extract_images(pictures()), expected)
    said = [record.getMessage() for record in caplog.records if "PyTorch does." in record.getMessage()]
    assert len(said) == 1 and said[0].startswith("OpenVINO cannot compute the vision model's global_backbone (inputs")
    assert [network is None for network in vision.networks.found.values()] == [
        True,
        False,
    ]  # the crops' is of one size
    assert {path.suffix for path in cache.iterdir()} == {".network", ".refused"}


# -------------------------------------------------------------------------------------------------- the machine's part


def test_without_openvino_pytorch_computes(monkeypatch):
    vision = make_vision_model()
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(networks_hamlearning.importlib.util, "find_spec", lambda name: None)
    assert_close(vision.extract_images(pictures()), by_torch(vision), 0)
    with pytest.raises(ImportError, match=r"pip install .hamlearning\[export\]"):
        vision.runtime = "openvino"


def test_an_unknown_runtime_is_refused():
    with pytest.raises(ValueError, match="runtime='onnx': must be one of torch, openvino, or None"):
        make_vision_model().runtime = "onnx"


def test_a_copy_and_a_pickle_compute_anew():
    vision = make_vision_model()
    expected = vision.extract_images(pictures())
    for other in (copy.deepcopy(vision), pickle.loads(pickle.dumps(vision))):
        assert not other.networks.found
        assert_close(other.extract_images(pictures()), expected, 0)


def extract_into(queue, vision: HamLearningVisionModel) -> None:
    queue.put(vision.extract_images(pictures()[:1])[0]["features"])


@pytest.mark.parametrize("was_compiled", [True, False])
def test_a_fork_of_a_process_that_computed_answers(was_compiled):
    make_vision_model(seed := "test_resnet").extract_images(pictures())
    vision = make_vision_model(seed)
    if was_compiled:
        vision.extract_images(pictures())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=extract_into, args=(queue, vision))
    process.start()
    found = queue.get(timeout=60)
    process.join(60)
    np.testing.assert_allclose(found, vision.extract_images(pictures()[:1])[0]["features"], atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- the cache


def test_a_compiled_network_is_found_again(cache, no_conversion):
    expected = make_vision_model().extract_images(pictures())
    assert [path.name.partition("-")[0] for path in cache.iterdir()] == ["global_backbone"]
    no_conversion()
    assert_close(make_vision_model().extract_images(pictures()), expected, 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_that_was_found_again_keeps_the_memory_of_its_weights(cache, no_conversion, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = make_vision_model().extract_images(pictures())
        no_conversion()
        vision = make_vision_model()
        vision.extract_images(pictures())
        (path,) = cache.iterdir()
        gc.collect()
        others = [np.full(path.stat().st_size, 255, np.uint8) for _ in range(20)]
        larger = [picture.resize((picture.width + 32, picture.height + 32)) for picture in pictures()]
        vision.extract_images(larger)  # another size: the weights are read again
        assert_close(vision.extract_images(pictures()), expected, 0)
        assert len(others) == 20
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:1000],
        lambda content: content[:100] + 300 * b"\x93" + content[400:],  # OpenVINO raises UnicodeDecodeError
        lambda content: content[:-200_000] + bytes(1000) + content[-199_000:],  # it reads such weights as they are
    ],
    ids=["empty", "cut short", "no text", "other weights"],
)
def test_a_damaged_one_is_made_anew(cache, damage):
    vision = make_vision_model()
    expected = vision.extract_images(pictures())
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert_close(make_vision_model().extract_images(pictures()), expected, 0)
    assert path.read_bytes() != damage(whole) != whole


def test_a_damaged_refusal_is_a_refusal(cache):
    part = Part(_Tuple(nn.Linear(2, 2)), (torch.ones(1, 2),))
    load_or_compile("linear", part, "float32")
    (path,) = cache.iterdir()
    path.with_suffix(".refused").write_bytes(b"\x93")
    with pytest.raises(CannotConvertError):
        load_or_compile("linear", part, "float32")


def test_other_weights_are_another_network(cache):
    part = Part(nn.Linear(2, 2), (torch.ones(1, 2),))
    for seed in (0, 1):
        lively(part.module, seed)
        load_or_compile("linear", Part(_Tuple(part.module), part.inputs), "float32")
    assert len(list(cache.iterdir())) == 2


def test_pictures_of_another_mean_are_another_network(cache):
    make_vision_model().extract_images(pictures())
    vision = make_vision_model(image_mean=[0.1, 0.2, 0.3])
    assert_close(vision.extract_images(pictures()), by_torch(vision))
    assert len(list(cache.iterdir())) == 2


class _Tuple(nn.Module):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.module(values),)


def test_a_place_that_cannot_be_written_keeps_nothing(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(networks_hamlearning, "CACHE", tmp_path / "file" / "networks")
    vision = make_vision_model()
    assert_close(vision.extract_images(pictures()), by_torch(vision))


@pytest.mark.slow
def test_two_processes_that_begin_together_leave_one_whole_file(tmp_path):
    code = (
        "import sys; sys.path += sys.argv[1:]; from test_networks import *; "
        "print(make_vision_model().extract_images(pictures())[0]['features'].sum())"
    )
    folder = Path(__file__).parent
    environment = os.environ | {"HAMLEARNING_NETWORKS": str(tmp_path)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(folder.parent)],
            stdout=subprocess.PIPE, text=True, env=environment, cwd=folder,
        )
        for _ in range(2)
    ]  # fmt: skip
    one, other = (run.communicate(timeout=300)[0] for run in runs)
    assert one == other != "" and len(list(tmp_path.iterdir())) == 1


# ------------------------------------------------------------------------------------------------------------ exported


def test_an_exported_network_is_read_with_the_vision_model(cache, tmp_path, no_conversion):
    vision = make_vision_model()
    vision.export_networks(tmp_path / "vision")
    vision.save_pretrained(tmp_path / "vision")
    HamLearningVisionModel.from_pretrained(tmp_path / "vision").save_pretrained(tmp_path / "again")
    no_conversion()
    loaded = HamLearningVisionModel.from_pretrained(tmp_path / "again")
    assert_close(loaded.extract_images(pictures()), by_torch(vision))
    assert loaded.fingerprint() == make_vision_model().fingerprint()


def test_an_exported_network_of_other_weights_is_not_taken(cache, tmp_path):
    vision = make_vision_model()
    vision.export_networks(tmp_path)
    vision.save_pretrained(tmp_path)
    other = lively(HamLearningVisionModel.from_pretrained(tmp_path), seed=1)
    assert_close(other.extract_images(pictures()), by_torch(other))


def test_a_damaged_exported_network_is_converted_anew(cache, tmp_path, caplog):
    vision = make_vision_model()
    vision.export_networks(tmp_path)
    vision.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.xml")
    path.write_bytes(path.read_bytes().replace(b'type="Parameter"', b'type="\x93arameter"'))
    loaded = HamLearningVisionModel.from_pretrained(tmp_path)
    assert_close(loaded.extract_images(pictures()), by_torch(vision))
    assert f"{path} does not hold a whole network" in caplog.text


# --------------------------------------------------------------------------------------------------------- batch norms


class Branches(nn.Module):
    """A convolution whose output is read before its batch norm too, and a batch norm of two convolutions."""

    def __init__(self, reads_before: bool = False, is_shared: bool = False):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.reads_before, self.is_shared = reads_before, is_shared

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        raw = self.first(pixels)
        found = self.second(self.norm(raw).relu())
        found = self.norm(found) if self.is_shared else self.other(found)
        return (found + raw if self.reads_before else found,)


def folded(module: nn.Module) -> nn.Module:
    module = lively(module).eval().requires_grad_(False)
    return fold_batch_norms(Part(module, (torch.randn(1, 3, 8, 8),)))


def norms(module: nn.Module) -> int:
    return sum(isinstance(submodule, nn.BatchNorm2d) for submodule in module.modules())


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "tf_efficientnet_lite0"])
def test_batch_norms_are_folded_into_the_weights_and_the_features_stay(architecture):
    vision = make_vision_model(architecture)
    vision.runtime = "torch"
    with torch.no_grad():
        vision.extract_images(pictures())
        found = vision.networks.folded["global_backbone"]
        assert norms(found) == 0 < norms(vision.global_backbone)
        pixels = torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8)
        expected = vision.feature_map(pixels)
        torch.testing.assert_close(found(pixels)[0], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_folded_backbone_leaves_weights_and_fingerprint_and_is_not_saved(tmp_path):
    vision = make_vision_model()
    vision.runtime = "torch"
    before, names = vision.fingerprint(), vision.state_dict().keys()
    vision.extract_images(pictures())
    assert vision.fingerprint() == before and vision.state_dict().keys() == names
    assert pickle.loads(pickle.dumps(vision)).networks.folded == {}


def test_a_folded_backbone_is_forgotten_with_its_weights():
    vision, other = make_vision_model(), make_vision_model()
    vision.runtime = other.runtime = "torch"
    vision.extract_images(pictures())
    with torch.no_grad():
        for parameter in other.global_backbone.parameters():
            parameter.mul_(1.1)
    vision.load_state_dict(other.state_dict())
    assert_close(vision.extract_images(pictures()), other.extract_images(pictures()), tolerance=0)


def test_what_is_read_before_its_batch_norm_stays_as_it_is():
    assert norms(folded(Branches())) == 0
    assert norms(folded(Branches(reads_before=True))) == 2


def test_a_batch_norm_of_two_convolutions_stays():
    assert norms(folded(Branches(is_shared=True))) == 2


def test_a_backbone_without_batch_norms_is_itself():
    module = nn.Conv2d(3, 4, 3)
    assert fold_batch_norms(Part(nn.Sequential(module, nn.GroupNorm(2, 4)), (torch.randn(1, 3, 8, 8),)))[0] is module
