"""The kernels that PyTorch starts for a network: their operations and bytes, by part, on tensors that may be fake."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from configuration_hamlearning import HamLearningConfig, HamLearningVisionConfig
from memory import SavedBytes
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from training_step import watch_parts
from workload import autocast, random_batch


aten = torch.ops.aten
# Products of matrices that PyTorch's own counter leaves out.
CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g.shape, q.shape, k.shape, v.shape
    ),
}
# They do not touch the elements of tensors.
NO_KERNELS = {
    aten.detach, aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty,
    aten.new_empty_strided, aten.scalar_tensor,
}  # fmt: skip
# They read of their first operand only what they put out.
LOOKUPS = {aten.embedding, aten.gather, aten.index, aten.index_select}


@dataclass(frozen=True)
class Kernel:
    """One kernel: its name, its part of the network, and what it does."""

    name: str
    part: str
    products: int  # floating-point operations of products of matrices
    elements: int  # of the largest operand or result
    bytes: int  # every operand read once, every result written once
    dtype: torch.dtype  # of its result

    @property
    def operations(self) -> int:
        """Floating-point operations of a product; of everything else one an element."""
        return self.products or self.elements


class Kernels(TorchDispatchMode):
    """Records the kernels that start inside it."""

    def __init__(self):
        super().__init__()
        self.part = ""
        self.found: list[Kernel] = []

    def switch(self, part: str):
        """From now on kernels belong to `part`."""
        self.part = part

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if func.namespace != "aten" or func.is_view or packet in NO_KERNELS:
            return out
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        products = 0
        if packet in CPU_ATTENTION:
            products = CPU_ATTENTION[packet](*args, **(kwargs or {}))
        elif packet in flop_registry:
            products = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        if packet in LOOKUPS:
            read = 2 * sum(map(_bytes, results))  # the indices are about as much as nothing
        else:
            read = sum(map(_bytes, operands)) + sum(map(_bytes, results))
        elements = max((tensor.numel() for tensor in operands + results), default=0)
        dtype = results[0].dtype if results else torch.float32
        self.found.append(Kernel(str(packet), self.part, products, elements, read, dtype))
        return out


def _bytes(tensor: torch.Tensor) -> int:
    """What is read of it: an expanded tensor is smaller than it looks."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


class GPUKernels(TorchFunctionMode):
    """On a CPU dropout is three kernels, and attention with dropout several; on a GPU each is one."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        if func is F.dropout:
            return _gpu_dropout(*args, **kwargs)
        return func(*args, **kwargs)


def _gpu_dropout(states, p=0.5, training=True, inplace=False):
    return torch.native_dropout(states, p, True)[0] if training and p > 0 else states


def step_kernels(
    config: HamLearningConfig, sizes: dict[str, int], precision: str, training: bool, on_gpu: bool
) -> list[Kernel]:
    """Kernels of a forward and backward pass, or of tagging, on fake tensors: nothing is computed or allocated.

    `sizes` are the arguments of `random_batch`. Trained is with autocast, tagged with weights of the precision. The
    optimiser is not in it.
    """
    with FakeTensorMode():
        in_bf16 = precision == "bf16" and not training  # fake weights can be made in bfloat16, but not changed to it
        dtype = torch.bfloat16 if in_bf16 else torch.float32
        model = HamLearningForTokenClassification._from_config(copy.deepcopy(config), dtype=dtype).train(training)
        batch = random_batch(config, **sizes)
        kernels = Kernels()
        kernels.switch("rest, forward")
        with watch_parts(model, kernels.switch), torch.set_grad_enabled(training):
            with (
                GPUKernels() if on_gpu else nullcontext(),
                autocast(model.device, "fp32" if in_bf16 else precision),
                kernels,
            ):
                loss = model(**batch).loss
            if training:
                kernels.switch("rest, backward")
                with kernels:
                    loss.backward()
    # Labels tell the number of words, which fake tensors cannot; tagging has no likelihood.
    return kernels.found if training else [kernel for kernel in kernels.found if not kernel.part.startswith("CRF")]


def saved_bytes(config: HamLearningConfig, sizes: dict[str, int]) -> int:
    """What a training step on a GPU, in bf16, saves for its backward pass."""
    with FakeTensorMode():
        model, batch = HamLearningForTokenClassification(config).train(), random_batch(config, **sizes)
        with SavedBytes(model) as saved, GPUKernels(), autocast(model.device, "bf16"):
            model(**batch)
    return saved.encoder + saved.other + saved.copies


def counted_kernels(run: Callable) -> list[Kernel]:
    """Kernels of `run()` on real tensors."""
    with Kernels() as kernels:
        run()
    return kernels.found


def picture_kernels(detector: str) -> list[Kernel]:
    """Kernels of the vision model for a picture of 4:3: ResNet-152, products and maps of `faster_rcnn_vg` or `grid`.

    What depends on the picture, the choice of regions, is not in it.
    """
    config = HamLearningVisionConfig(detector=detector)
    side = config.crop_size
    with FakeTensorMode(), torch.no_grad():
        vision_model = HamLearningVisionModel(config)
        with Kernels() as kernels:
            kernels.switch("ResNet-152 on the crop")
            vision_model.feature_map(torch.zeros(1, 3, side, side, dtype=torch.uint8))
            if detector == "grid":
                kernels.switch("ResNet-152 on the whole picture")
                vision_model.feature_map(torch.zeros(1, 3, side, 4 * side // 3, dtype=torch.uint8))
                return kernels.found
            network = vision_model.detector
            settings = network.settings
            kernels.switch("detector's backbone")
            maps = network.backbone(torch.zeros(1, 3, settings.min_size, 4 * settings.min_size // 3))
            kernels.switch("detector's proposals")
            network.proposal_generator.rpn_head(maps)
            kernels.switch("detector's regions")
            size = settings.pooled_size
            regions = network.roi_heads.res5(torch.zeros(settings.rpn_post_nms, maps.shape[1], size, size))
            network.roi_heads.box_predictor(regions.mean(dim=(2, 3)))
    return kernels.found
