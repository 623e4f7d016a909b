#!/usr/bin/env python
"""The systems of Table 1 beside their authors' code: the same weights and inputs in both, emissions compared.

```bash
git clone https://github.com/jefferyYu/UMT && git -C UMT checkout f478ee6
git clone https://github.com/zjunlp/HVPNeT && git -C HVPNeT checkout 410bd0c
git clone https://github.com/xubodhu/MAF && git -C MAF checkout 3952fb0
git clone https://github.com/CIKM2022-MGCMT/MGCMT && git -C MGCMT checkout c3bd049
python benchmarks/rivals_against_public.py --umt UMT --hvpnet HVPNeT --maf MAF --mgcmt MGCMT
```

Each is imported from its clone as it is, with stand-ins for what today's libraries no longer have, gets weights drawn
at random, and reads texts of random sub-tokens and pictures of random features. Each position counts as a word with 9
tags, and so has an emission in both. Printed are the largest difference of an emission, which may be 1e-4, how far
emissions spread, how far they move where tweets have each other's pictures, and the same of the tags that both decode.

Where this code settles something otherwise, the inputs are such that it does not matter:

- MAF looks at 128 positions, padding included, which is zero here: so texts fill them.
- MGCMT adds words' neighbours to the text, which is left out here: they are zero.
- HVPNeT masks absent crops here: so all are there. Its pyramids are made up; no ResNet runs.

UMGF is not among them: its one program reads data, and loads a BERT and a ResNet-152, as soon as it is imported, and
its network trains the latter through a layer that is left out here. The others have no public code of what they are
here: GVATT and AdaCAN around BERT, MRC-MNER; ITA is a configuration of a library of its own.
"""

import argparse
import importlib
import json
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig

from hamlearning.rivals.architectures import class_of
from operations import PRESETS
from peers import import_hvpnet


MOST = 1e-4  # difference of an emission
# Of the text encoder; HVPNeT's code has those of BERT-base alone.
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
NUM_TAGS, NUM_KINDS, NUM_CELLS, NUM_CLASSES = 9, 3, 49, 84
# Of a weight, the name of a part here and there.
LAYER_NAMES = {
    "attention.q_proj.": "attention.self.query.",
    "attention.k_proj.": "attention.self.key.",
    "attention.v_proj.": "attention.self.value.",
    "attention.out_proj.": "attention.output.dense.",
    "attention_norm.": "attention.output.LayerNorm.",
    "mlp.0.": "intermediate.dense.",
    "mlp.2.": "output.dense.",
    "output_norm.": "output.LayerNorm.",
}
UMT_NAMES = {
    "model.text_model.": "bert.",
    "auxiliary_layer.": "self_attention.layer.0.",
    "text_layer.": "self_attention_v2.layer.0.",
    "text_reads_picture.": "txt2img_attention.layer.0.",
    "picture_reads_text.": "img2txt_attention.layer.0.",
    "text_reads_reading.": "txt2txt_attention.layer.0.",
    "region_keys.": "vismap2text.",
    "region_queries.": "vismap2text_v2.",
    "auxiliary_classifier.": "aux_classifier.",
    "auxiliary_crf.": "aux_crf.",
}
HVPNET_NAMES = {
    "model.text_model.": "bert.",
    "row_projection.": "encoder_conv.0.",
    "level_projection.": "encoder_conv.2.",
    "classifier.": "fc.",
}
MAF_NAMES = {
    "model.text_model.": "bert.",
    "pooler.text_model.": "bert.pooler.",
    "region_projection.": "vismap2text.",
    "text_reads_picture.": "txt2img_attention.layer.0.",
    "match.": "crs_classifier.",
    "text_gate.": "Gate_text.",
    "picture_gate.": "Gate_image.",
    "text_contrast.0.": "text_dense_cl.",
    "text_contrast.2.": "text_ouput_cl.",
    "picture_contrast.0.": "image_dense_cl.",
    "picture_contrast.2.": "image_output_cl.",
}
MGCMT_NAMES = {
    "model.text_model.": "bert.",
    "auxiliary_layer.": "self_attention.layer.0.",
    "text_layer.": "self_attention_v2.layer.0.",
    "cell_keys.": "vismap2text.",
    "cell_queries.": "vismap2text_v2.",
    "class_embedding.": "object_embeddings.",
    "cells.keys_layer.": "img2img_attention.layer.0.",
    "cells.queries_layer.": "img2img_attention_v2.layer.0.",
    "cells.text_reads.": "txt2img_attention.layer.0.",
    "cells.reads_text.": "img2txt_attention.layer.0.",
    "cells.text_reads_reading.": "txt2txt_attention.layer.0.",
    "objects.keys_layer.": "obj2obj_attention.layer.0.",
    "objects.queries_layer.": "obj2obj_attention_v2.layer.0.",
    "objects.text_reads.": "txt2obj_attention.layer.0.",
    "objects.reads_text.": "obj2txt_attention.layer.0.",
    "objects.text_reads_reading.": "txt2obj_attention_v2.layer.0.",
    "cell_gate.first.weight": "fus1_w1",
    "cell_gate.second.weight": "fus1_w2",
    "cell_gate.second.bias": "fus1_bias",
    "object_gate.first.weight": "fus2_w1",
    "object_gate.second.weight": "fus2_w2",
    "object_gate.second.bias": "fus2_bias",
    "picture_fusion.1.": "fus3_linear.",
    "fusion.weight": "fusion_w",
    "fusion.bias": "fusion_bias",
    "auxiliary_classifier.": "aux_classifier.",
    "auxiliary_crf.": "aux_crf.",
}


@dataclass
class Pair:
    """A public network and ours, and what each is asked of the same tweets."""

    public: nn.Module
    own: Any
    names: dict[str, str]
    ask_public: Callable[[dict[str, torch.Tensor]], Any]
    own_inputs: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def import_public(folder: Path, module: str, **stand_ins: Any) -> types.ModuleType:
    """A module of a clone, with stand-ins, by name, for modules that it imports and nothing of it is run here."""
    if not (folder / Path(*module.split("."))).with_suffix(".py").is_file():
        raise FileNotFoundError(f"{folder} holds no {module.replace('.', '/')}.py: clone the repository there.")
    for known in [*sys.modules]:  # clones share names
        if known.split(".")[0] in (module.split(".")[0], "utils"):
            del sys.modules[known]
    for name, attributes in {"boto3": {}, "botocore": {}, "botocore.exceptions": {"ClientError": OSError}}.items():
        stand_ins.setdefault(name, types.SimpleNamespace(**attributes))
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(folder))
        for name, known in before.items():
            del sys.modules[name]
            if known is not None:
                sys.modules[name] = known


def make_own(architecture: str, sizes: dict[str, int], **fields: Any) -> Any:
    """Our network, with 9 tags."""
    model_class = class_of(architecture)
    return model_class(model_class.config_class(text_config=BertConfig(**sizes), **fields))


def draw(network: nn.Module):
    """Weights at random, wide enough that what a part says is heard in the emissions."""
    for name, parameter in network.named_parameters():
        is_gain = "norm" in name.lower() and name.endswith("weight")
        nn.init.normal_(parameter, mean=float(is_gain), std=0.05)


def public_name(name: str, names: dict[str, str]) -> str:
    """Of one of our weights, the name there."""
    for own, public in names.items():
        if name.startswith(own):
            rest = name.removeprefix(own)
            for part, public_part in LAYER_NAMES.items():
                if rest.startswith(part):
                    return public + public_part + rest.removeprefix(part)
            return public + rest
    return name


def copy_weights(pair: Pair) -> int:
    """Gives our network the weights of the public one; returns how many there are."""
    weights = dict(pair.public.named_parameters())
    for name, parameter in pair.own.named_parameters():
        weight = weights[public_name(name, pair.names)]
        # MGCMT multiplies from the other side where it has no linear layer.
        weight = weight.T if name == "fusion.weight" else weight
        if weight.shape != parameter.shape:
            raise ValueError(f"{name} is {tuple(parameter.shape)}, {public_name(name, pair.names)} is not.")
        parameter.copy_(weight)
    return sum(parameter.numel() for parameter in pair.own.parameters())


def make_tweets(lengths: list[int], width: int) -> dict[str, torch.Tensor]:
    """Texts of sub-tokens, and pictures of cells, objects and pyramids."""
    count = len(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {
        "input_ids": torch.randint(1000, 30000, (count, width)) * mask,
        "attention_mask": mask,
        "cells": torch.randn(count, NUM_CELLS, 2048),
        "objects": torch.randint(1, NUM_CLASSES + 1, (count, 5)),
        "pyramids": torch.randn(count, 4, 3840, 4),
    }


def text_inputs(tweets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of our network: each position behind the first is a word."""
    mask = tweets["attention_mask"]
    places = torch.arange(mask.shape[1])
    return {
        "input_ids": tweets["input_ids"],
        "attention_mask": mask,
        "word_ids": torch.where(mask.bool(), places, -1),
        "image_features": torch.zeros(len(mask), 2048),
    }


def cell_inputs(tweets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of our network: cells are its regions."""
    return text_inputs(tweets) | {"region_features": tweets["cells"]}


def visual_embeds(tweets: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cells as a ResNet gives them, (B, 2048, 7, 7)."""
    return tweets["cells"].transpose(1, 2).unflatten(2, (7, 7))


def image_mask(tweets: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of cells and text, all cells being there."""
    return nn.functional.pad(tweets["attention_mask"], (NUM_CELLS, 0), value=1)


def umt(folder: Path) -> Pair:
    """UMT, its conversion matrix ours."""
    code = import_public(folder, "my_bert.mner_modeling")
    own = make_own("umt", SIZES)
    public = code.MTCCMBertForMMTokenClassificationCRF(
        code.BertConfig(30522, **SIZES), num_labels=NUM_TAGS, auxnum_labels=NUM_KINDS
    )

    def ask(tweets: dict[str, torch.Tensor]):
        ids, mask = tweets["input_ids"], tweets["attention_mask"]
        return public(ids, torch.zeros_like(ids), mask, image_mask(tweets), visual_embeds(tweets), own._conversion())

    return Pair(public, own, UMT_NAMES, ask, cell_inputs)


def maf(folder: Path) -> Pair:
    """MAF, whose labels of a match lie on a GPU, where there is none."""
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self: self
    code = import_public(folder, "mybert.gate_cl_modeling")
    public = code.MTCCMBertForMMTokenClassificationCRF(code.BertConfig(30522, **SIZES), num_labels=NUM_TAGS)

    def ask(tweets: dict[str, torch.Tensor]):
        ids, mask = tweets["input_ids"], tweets["attention_mask"]
        pictures = torch.zeros(len(ids), 2048)
        return public(ids, torch.zeros_like(ids), mask, image_mask(tweets), pictures, visual_embeds(tweets))

    return Pair(public, make_own("maf", SIZES), MAF_NAMES, ask, cell_inputs)


def mgcmt(folder: Path) -> Pair:
    """MGCMT with the settings of its config.py, which reads data when it is imported."""
    settings = {
        "img_object_label_num": NUM_CLASSES + 1, "char_input_dim": 8, "max_wordlen": 12, "char_dict": range(9),
        "use_char_cnn": 1, "aug_before": 1, "aug_gate": 1, "aug_dim": 200, "ffusion_method": 2, "main_cat": 0,
        "alpha_seg": 1, "seg_task": 0,
    }  # fmt: skip
    config = types.SimpleNamespace(Args=types.SimpleNamespace(**settings))
    unread = {name: lambda **_: nn.Identity() for name in ("char_cnn", "Highway", "GMF", "FiltrationGate")}
    code = import_public(folder, "my_bert.mner_modeling", config=config, utils=types.SimpleNamespace(**unread))
    public = code.MSCMT(code.BertConfig(30522, **SIZES), num_labels=NUM_TAGS, auxnum_labels=NUM_KINDS)

    def ask(tweets: dict[str, torch.Tensor]):
        ids, mask = tweets["input_ids"], tweets["attention_mask"]
        public.maug_linear.bias.data.zero_()
        neighbours, unread = torch.zeros(*ids.shape, 200), torch.zeros(1)
        return public(
            ids, neighbours, unread, unread, tweets["objects"], ids, torch.zeros_like(ids), mask, image_mask(tweets),
            visual_embeds(tweets), torch.zeros(NUM_KINDS, NUM_TAGS),
        )  # fmt: skip

    def own_inputs(tweets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        objects = tweets["objects"]
        regions = {"region_class_ids": objects, "region_features": torch.zeros(*objects.shape, 2048)}
        return text_inputs(tweets) | regions | {"grid_features": tweets["cells"]}

    own = make_own("mgcmt", SIZES, num_classes=NUM_CLASSES, grid_feature_size=2048)
    return Pair(public, own, MGCMT_NAMES, ask, own_inputs)


class Pyramids(nn.Module):
    """In the place of HVPNeT's ResNet-50: the stages of the picture, and those of its crops, as they are given."""

    def forward(self, picture: torch.Tensor, crops: torch.Tensor) -> tuple[list, list]:
        """(B, 3840, 2, 2) and (B, crops, 3840, 2, 2)."""
        return [picture], [[crop] for crop in crops.unbind(1)]


def hvpnet(folder: Path) -> Pair:
    """HVPNeT with pyramids that are made up."""
    args = types.SimpleNamespace(prompt_dim=800, prompt_len=4, bert_name="", use_prompt=True, device="cpu")
    public = import_hvpnet(folder).HMNeTNERModel([str(tag) for tag in range(NUM_TAGS)], args)
    public.image_model = Pyramids()

    def ask(tweets: dict[str, torch.Tensor]):
        ids, mask = tweets["input_ids"], tweets["attention_mask"]
        pyramids = tweets["pyramids"].unflatten(3, (2, 2))
        return public(ids, mask, torch.zeros_like(ids), images=pyramids[:, 0], aux_imgs=pyramids[:, 1:])

    def own_inputs(tweets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return text_inputs(tweets) | {"pyramid_features": tweets["pyramids"].flatten(2)}

    return Pair(public, make_own("hvpnet", PRESETS["bert-base"]), HVPNET_NAMES, ask, own_inputs)


def ask_both(pair: Pair, tweets: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Emissions of all positions but the first, (positions, T), of the public network and of ours."""
    heard = []

    def decode(emissions: torch.Tensor, mask: torch.Tensor) -> list:
        heard.append(emissions)
        return []

    pair.public.crf.decode = decode  # what it gets are the emissions
    pair.ask_public(tweets)
    is_word = tweets["attention_mask"][:, 1:].bool()
    own = pair.own(**pair.own_inputs(tweets)).logits
    return heard[0][:, 1:][is_word], own[is_word[:, : own.shape[1]]]


@torch.no_grad()
def compare(name: str, folder: Path) -> dict[str, Any]:
    """The row of a system."""
    torch.manual_seed(1)
    pair = {"umt": umt, "hvpnet": hvpnet, "maf": maf, "mgcmt": mgcmt}[name](folder)
    draw(pair.public.eval())
    count = copy_weights(pair)
    pair.own.eval()
    tweets = make_tweets([128] * 4, 128) if name == "maf" else make_tweets([24, 17, 5, 11], 24)
    public, own = ask_both(pair, tweets)
    pictures = ("cells", "objects", "pyramids")
    other, _ = ask_both(pair, tweets | {part: tweets[part].roll(1, 0) for part in pictures})
    return {
        "system": name,
        "weights": count,
        "difference": float((public - own).abs().max()),
        "spread": float(public.std()),
        "moved by others' pictures": float((public - other).abs().max()),
        "same best tags": float((public.argmax(-1) == own.argmax(-1)).float().mean()),
    }


def main():
    """Prints a table, writes it as JSON if asked, and fails where a system differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("umt", "hvpnet", "maf", "mgcmt"):
        parser.add_argument(f"--{name}", type=Path, help="clone of its repository")
    parser.add_argument("--json", help="also write the figures here")
    options = vars(parser.parse_args())
    file = options.pop("json")
    folders = {name: folder for name, folder in options.items() if folder is not None}
    if not folders:
        parser.error("give the clone of at least one system, such as --umt UMT")
    warnings.filterwarnings("ignore", category=UserWarning)  # their code calls signatures that PyTorch will drop
    rows = []
    for name, folder in folders.items():
        rows.append(compare(name, folder))
        print("  ".join(f"{key} {value:.3g}" if key != "system" else value for key, value in rows[-1].items()))
    if file:
        Path(file).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    bad = [row["system"] for row in rows if not row["difference"] <= MOST]
    if bad:
        sys.exit(f"Emissions of {', '.join(bad)} differ by more than {MOST:.0e}.")


if __name__ == "__main__":
    main()
