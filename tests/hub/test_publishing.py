"""From a training run to its repo on the Hub, and from the repo's id to entities in a process of a stranger."""

import ast
import json
import re
import shutil
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.cli import main
from hamlearning.data.card import ENGLISH_2014_TO_2017
from hamlearning.data.tweets import load_tweets
from hamlearning.hub.model_card import CARD_MARK, model_card, weights_origins
from hamlearning.hub.publishing import publish_model
from hamlearning.training.arguments import DataArguments
from hamlearning.training.results import data_set_name
from hamlearning.training.run import main as run_mner
from hub_server import HubServer, run_client, stranger
from modeling_hamlearning import HamLearningForTokenClassification
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningProcessor
from tiny_world import flags


REPO = "org/tiny"
CODE = {
    "configuration_hamlearning.py", "handler.py", "image_processing_hamlearning.py", "modeling_faster_rcnn_vg.py",
    "modeling_hamlearning.py", "modeling_hamlearning_vision.py", "networks_hamlearning.py", "pipeline_hamlearning.py",
    "processing_hamlearning.py", "serving_hamlearning.py", "words_hamlearning.py",
    "marks_hamlearning.py", "windows_hamlearning.py",
}  # fmt: skip
TEXTS = ["i met ann today", "flying to rome with bob cleo !", "so tired"]


def publishing(*arguments) -> str:
    """Code that calls `hamlearning publish`."""
    return f"import sys\nfrom hamlearning.cli import main\nsys.exit(main({['publish', *map(str, arguments)]!r}))"


def run(hub: HubServer, home, output_dir, world, **more) -> str:
    """`run_mner.py` with pictures and --push_to_hub, in a process whose Hub is `hub`; returns what it logged."""
    settings = {
        "visual_features": None,
        "image_dir": world / "images",
        "vision_backbone": world / "backbone",
        "detector": "grid",
        "extraction_dir": world / "extracted",
        "extraction_workers": 1,
        "max_regions": 3,
        "num_train_epochs": 30,
        "push_to_hub": True,
        "hub_model_id": REPO,
        "example_texts": TEXTS[0],
    } | more
    argv = flags(world, output_dir, **settings)
    return run_client(
        hub, f"import sys\nfrom hamlearning.training.run import main\nsys.stderr = sys.stdout\nmain({argv!r})", home
    )


@pytest.fixture(scope="module")
def published(world, tmp_path_factory):
    """`hub, home, folder, log`: a run that was published to `REPO`; the folder of its client and its own."""
    home, folder = tmp_path_factory.mktemp("home"), world / "published"
    Image.open(next((world / "images").glob("test*.png"))).save(home / "picture.png")
    with HubServer() as hub:
        log = run(hub, home, folder, world)
        yield SimpleNamespace(hub=hub, home=home, folder=folder, log=log)


@pytest.fixture(scope="module")
def results(published) -> dict:
    return json.loads((published.folder / "results.json").read_text())


@pytest.fixture(scope="module")
def card(published) -> ModelCard:
    return ModelCard(published.hub.files(REPO)["README.md"].decode())


@pytest.fixture(scope="module")
def local(published):
    """The pipeline of the trained folder."""
    return HamLearningPipeline(
        model=HamLearningForTokenClassification.from_pretrained(published.folder),
        processor=HamLearningProcessor.from_pretrained(published.folder, trust_remote_code=True),
    )


# ----------------------------------------------------------------------------------------------------------- the repo


def test_a_run_publishes_a_complete_repo(published):
    files = set(published.hub.files(REPO))
    expected = {
        "README.md", "config.json", "model.safetensors", "processor_config.json", "requirements.txt", "results.json",
        "tokenizer.json", "tokenizer_config.json", "training.png", "vision/config.json", "vision/model.safetensors",
    }  # fmt: skip
    assert CODE | expected <= files


def test_only_what_belongs_to_a_model_is_published(published):
    notes = published.folder / "notes.txt"
    notes.write_text("mine")
    code = publishing(str(published.folder), "org/notes")
    run_client(published.hub, code, published.home)
    assert set(published.hub.files("org/notes")) == set(published.hub.files(REPO))
    notes.unlink()


def test_checkpoints_predictions_and_pickles_stay_at_home(published):
    assert list(published.folder.glob("checkpoint-*")) and (published.folder / "training_args.bin").is_file()
    files = published.hub.files(REPO)
    assert not [path for path in files if re.search(r"checkpoint|predictions|\.bin$|\.pt$|\.pkl$|^\.(?!git)", path)]


def test_a_repo_names_no_folder_of_the_machine_that_made_it(published, world):
    for path, data in published.hub.files(REPO).items():
        assert str(world).encode() not in data and str(published.home).encode() not in data, path


def test_the_repo_appears_in_one_commit(published):
    made, *commits = published.hub.repos["model", REPO].commits.values()
    assert made == {} and len(commits) == 1
    revision = published.hub.find("model", REPO)[1]
    assert f"Published: {published.hub.url}/{REPO}/tree/{revision}" in published.log


def test_the_config_has_all_auto_classes_and_the_pipeline(published):
    config = json.loads(published.hub.files(REPO)["config.json"])
    assert set(config["auto_map"]) == {
        "AutoConfig", "AutoModel", "AutoModelForTokenClassification", "AutoProcessor"
    }  # fmt: skip
    assert list(config["custom_pipelines"]) == ["token-classification"]


# ----------------------------------------------------------------------------------------------------------- the card


def test_the_card_tells_the_hub_what_it_is(card, results):
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "token-classification",
        "apache-2.0",
    )
    assert data.widget == [{"text": TEXTS[0]}]
    scores = {(result.metric_name, result.metric_value) for result in data.eval_results}
    assert ("F1 (seqeval, default mode)", round(100 * results["test"]["f1"], 2)) in scores
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_the_card_shows_the_one_line_and_its_real_output(card, local):
    assert f'ner = pipeline(model="{REPO}", trust_remote_code=True)' in card.text
    shown = re.search(r"```\n(\[.*?\])\n```", card.text, re.DOTALL)[1]
    real = [entity | {"score": round(entity["score"], 4)} for entity in local(TEXTS[0])]
    assert ast.literal_eval(shown) == real != []


def test_the_card_has_the_score_table_and_names_the_evaluator(card, results):
    assert "seqeval" in card.text and "strict IOB2" in card.text
    for name, scores in results["test"]["types"].items():
        percent = " | ".join(f"{100 * scores[key]:.2f}" for key in ("precision", "recall", "f1"))
        assert f"| {name} | {percent} | {scores['number']} |" in card.text
    for split, facts in results["data"].items():
        assert f"| {split} | {facts['tweets']} | `{facts['sha256']}` |" in card.text


def test_every_figure_in_the_card_is_one_of_the_results(card, results):
    def figures(value):
        if isinstance(value, dict):
            return set().union(*map(figures, value.values()), *map(figures, value)) if value else set()
        if isinstance(value, list):
            return set().union(*map(figures, value)) if value else set()
        if isinstance(value, bool) or value is None:
            return set()
        if isinstance(value, str):
            return set(re.findall(r"\d+(?:\.\d+)*", value))
        return {f"{value:g}", f"{value:,}", f"{100 * value:.2f}", f"{round(100 * value, 2)}", f"{round(value, 4)}"}

    without_hashes = re.sub(r"`[0-9a-f]{64}`", "", card.text.split("## Cite")[0])
    without_names = re.sub(r"\bEq 8\b|2305\.08372|\bF1\b|\bIOB2\b|SHA-256", "", without_hashes)
    shown = set(re.findall(r"\d[\d,]*(?:\.\d+)*(?:e-?\d+)?", without_names))
    shown = {figure.rstrip(",") for figure in shown}
    assert len(shown) > 20
    assert shown <= figures(results)


def test_the_card_says_where_the_vision_model_come_from(card):
    assert "| global backbone | noise | mit |" in card.text


def test_the_card_of_a_model_without_a_vision_model_promises_no_pictures(results):
    blind = results | {"model": results["model"] | {"use_vision": False}}
    text = model_card(blind, REPO, "mit", vision_config=None)
    assert "takes no picture" in text and "torchvision" not in text and '"image"' not in text


def test_the_card_of_a_model_that_learned_from_a_file_says_so(results):
    text = model_card(results, REPO, "mit", vision_config=None)
    assert "learned from a file of visual features" in text and '"image"' not in text


def test_the_card_of_a_control_run_says_so(results):
    text = model_card(results | {"shuffle_pictures": True}, REPO, "mit", vision_config=None)
    assert "another tweet's picture" in text


def test_the_card_says_at_which_temperature_scores_are(results):
    found = {"temperature": 1.4321, "entities": 40, "right": 30, "before": {"ece": 0.1}, "after": {"ece": 0.02}}
    for calibration, is_said in ((found, True), ({"temperature": 1.0, "entities": 4, "right": 4}, False)):
        text = model_card(results | {"calibration": calibration}, REPO, "mit", vision_config=None)
        assert ("at a temperature of 1.43 that was fitted on dev" in text) == is_said


def test_language_and_age_are_told_of_the_tweets_that_are_known_by_their_hash(results):
    known = results | {"data": {"train": {"tweets": 3373, "sha256": ENGLISH_2014_TO_2017[1]}}}
    for facts, is_known in ((results, False), (known, True)):
        text = model_card(facts, REPO, "mit", vision_config=None)
        assert ("2014 and 2017" in text) == ("language: en" in text) == is_known


@pytest.mark.slow
def test_a_card_of_ones_own_stays(published, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(published.folder, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / "README.md").write_text("# Mine\n")
    run_client(
        published.hub,
        publishing(str(folder), "org/mine"),
        published.home,
    )
    assert published.hub.files("org/mine")["README.md"] == b"# Mine\n"


@pytest.fixture
def copied(published, tmp_path):
    """A copy of the trained folder."""
    return shutil.copytree(published.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))


@pytest.mark.slow
def test_an_empty_card_is_nobodys_own(published, copied):
    (copied / "README.md").write_text("")
    run_client(
        published.hub,
        publishing(str(copied), "org/empty"),
        published.home,
    )
    assert CARD_MARK.encode() in published.hub.files("org/empty")["README.md"]


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_the_former_card_and_names_the_command_for_later(published, copied):
    former = (copied / "README.md").read_bytes()
    code = f"""
import resource, sys
from hamlearning.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    status = main(["publish", {str(copied)!r}, "org/full"])
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.exit(status)
"""
    said = "error: README.md or requirements.txt could not be written to .*: File too large. .* Publish it later"
    with pytest.raises(AssertionError, match=rf"\n{said} with `hamlearning publish .*copy org/full`") as error:
        run_client(published.hub, code, published.home)
    assert "Traceback" not in str(error.value)
    assert (copied / "README.md").read_bytes() == former and not list(copied.glob(".*partial"))


def test_what_the_system_refuses_to_read_is_one_line(copied, capsys):
    (copied / "processor_config.json").unlink()
    (copied / "processor_config.json").mkdir()
    assert main(["publish", str(copied), REPO]) == 1
    assert capsys.readouterr().err == f"error: {copied / 'processor_config.json'}: Is a directory\n"


# ---------------------------------------------------------------------------------------------- loading it by its id

ALL_OF_IT = f"""
import torch
config = AutoConfig.from_pretrained("{REPO}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{REPO}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{REPO}", trust_remote_code=True)
trunk = AutoModel.from_pretrained("{REPO}", trust_remote_code=True)
model = AutoModelForTokenClassification.from_pretrained("{REPO}", trust_remote_code=True)
ner = pipeline(model="{REPO}", trust_remote_code=True)
named = pipeline("token-classification", model="{REPO}", trust_remote_code=True)
tweets = [*{TEXTS}, {{"text": {TEXTS[1]!r}, "image": "picture.png"}}]
answers = ner(tweets)
assert named(tweets) == answers
inputs = processor(text={TEXTS}, images=[None, "picture.png", None])
assert torch.equal(model.model(**inputs).last_hidden_state, trunk(**inputs).last_hidden_state)
facts = [config.model_type, len(tokenizer), type(ner).__name__, type(named).__name__]
ours = {{module.__file__ for name, module in sys.modules.items() if name.endswith("_hamlearning")}}
print(json.dumps([facts, answers, model(**inputs).logits.tolist(), sorted(ours)]))
"""


@pytest.fixture(scope="module")
def loaded(published):
    """What `ALL_OF_IT` prints in a fresh process that has nothing of this project."""
    return json.loads(run_client(published.hub, stranger(ALL_OF_IT), published.home).splitlines()[-1])


def test_every_auto_class_and_both_pipelines_load_by_the_id_alone(published, loaded, local):
    facts, _, _, files = loaded
    assert facts == ["hamlearning", len(local.processor.tokenizer), "HamLearningPipeline", "HamLearningPipeline"]
    assert files and all(file.startswith(str(published.home)) for file in files)


def test_what_was_loaded_answers_as_what_was_trained(loaded, local, published):
    _, answers, logits, _ = loaded
    picture = str(published.home / "picture.png")
    expected = local([*TEXTS, {"text": TEXTS[1], "image": picture}])
    assert sum(map(len, expected)) >= 4 and answers == expected
    inputs = local.processor(text=TEXTS, images=[None, picture, None])
    assert logits == local.model(**inputs).logits.tolist()


@pytest.mark.slow
def test_offline_the_cache_is_enough(published, loaded):
    published.hub.requests.clear()
    offline = "import os\nos.environ['HF_HUB_OFFLINE'] = '1'" + stranger(ALL_OF_IT)
    again = json.loads(run_client(published.hub, offline, published.home).splitlines()[-1])
    assert again == loaded and published.hub.requests == []


@pytest.mark.slow
def test_half_precision_loads_by_the_id(published, loaded):
    code = f"""
import torch
for dtype in (torch.bfloat16, torch.float16):
    ner = pipeline(model="{REPO}", trust_remote_code=True, dtype=dtype)
    assert ner.model.dtype == dtype
    print(json.dumps(ner([*{TEXTS}, {{"text": {TEXTS[1]!r}, "image": "picture.png"}}])))
"""
    for line in run_client(published.hub, stranger(code), published.home).splitlines()[-2:]:
        assert [[e["word"] for e in tweet] for tweet in json.loads(line)] == [
            [e["word"] for e in tweet] for tweet in loaded[1]
        ]


def test_without_trust_the_processor_explains_itself(published):
    code = f"""
for auto in (AutoProcessor, AutoModel, AutoConfig):
    try:
        auto.from_pretrained("{REPO}", trust_remote_code=False)
    except ValueError as error:
        print(auto.__name__, json.dumps(str(error)))
"""
    lines = run_client(published.hub, stranger(code), published.home).splitlines()
    assert [line.split()[0] for line in lines] == ["AutoProcessor", "AutoModel", "AutoConfig"]
    assert all("trust_remote_code=True" in line for line in lines)


@pytest.mark.slow
def test_the_handler_of_the_repo_answers_like_the_pipeline(published, loaded):
    code = f"""
from huggingface_hub import snapshot_download
sys.path.insert(0, snapshot_download("{REPO}"))
from handler import EndpointHandler
print(json.dumps(EndpointHandler(sys.path[0])({{"inputs": {TEXTS}}})))
"""
    answers = json.loads(run_client(published.hub, stranger(code), published.home).splitlines()[-1])
    words = [[entity["word"] for entity in tweet] for tweet in answers]
    assert words == [[entity["word"] for entity in tweet] for tweet in loaded[1][:3]]


# --------------------------------------------------------------------------------------------------- the next revision


@pytest.fixture
def republished(published, tmp_path, world):
    """`old, new`: the revisions of a repo of its own, `org/twice`, the second one without pictures."""
    hub = published.hub
    code = publishing(published.folder, "org/twice")
    old = run_client(hub, code, published.home).split("/")[-1].strip()
    run(hub, published.home, tmp_path / "text", world, use_vision=False, num_train_epochs=1, hub_model_id="org/twice")
    return hub, old, hub.find("model", "org/twice")[1]


@pytest.mark.slow
def test_publishing_again_is_a_new_revision_and_the_old_one_goes_on(published, republished):
    hub, old, new = republished
    assert old != new and len(hub.repos["model", "org/twice"].commits) == 3
    assert "vision/config.json" in hub.files("org/twice", rev=old)
    assert not [path for path in hub.files("org/twice") if path.startswith("vision/")]
    code = f"""
for revision in ({old!r}, {new!r}):
    ner = pipeline(model="org/twice", revision=revision, trust_remote_code=True)
    print(json.dumps([ner.model.config.use_vision, ner({TEXTS[1]!r})]))
try:
    ner({{"text": "a", "image": "picture.png"}})
except ValueError as error:
    print(error)
print(pipeline(model="org/twice", revision={old!r}, trust_remote_code=True)({{"text": "a", "image": "picture.png"}}))
"""
    first, second, refused, _ = run_client(hub, stranger(code), published.home).splitlines()[-4:]
    assert json.loads(first)[0] is True and json.loads(second)[0] is False
    assert json.loads(first)[1] != []
    assert "reads no pictures" in refused


@pytest.mark.slow  # test_hub_faults.py has the quick ones of its kind
def test_an_upload_that_fails_leaves_the_old_revision_served(published):
    code = publishing(str(published.folder), "org/once", "--license", "NAME")
    run_client(published.hub, code.replace("NAME", "mit"), published.home)
    code = code.replace("NAME", "bsd-3-clause")
    _, revision, files = published.hub.find("model", "org/once")
    published.hub.fail_next_commit = True
    with pytest.raises(
        AssertionError, match="error: org/once was not published .*403.* The Hub serves its last whole revision"
    ):
        run_client(published.hub, code, published.home)
    assert published.hub.find("model", "org/once")[1:] == (revision, files)
    assert published.folder.joinpath("model.safetensors").is_file()
    run_client(published.hub, code, published.home)
    assert published.hub.find("model", "org/once")[1] != revision


def test_a_hub_that_refuses_is_noticed_before_anything_is_computed(published, world, tmp_path):
    with pytest.raises(
        AssertionError, match="PublishError: The model repo org/tiny cannot be written to .*hf auth login"
    ):
        code = "import os\nos.environ['HF_TOKEN'] = 'hf_wrong'\nfrom hamlearning.training.run import main\nmain({!r})"
        argv = flags(world, tmp_path / "out", push_to_hub=True, hub_model_id=REPO)
        run_client(published.hub, code.format(argv), published.home)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_model_and_processor_push_is_complete_too(published):
    code = f"""
model = AutoModelForTokenClassification.from_pretrained("{REPO}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{REPO}", trust_remote_code=True)
processor.vision_model
tweet = {{"text": {TEXTS[0]!r}, "image": "picture.png"}}
model.push_to_hub("org/pushed")
processor.push_to_hub("org/pushed")
print(json.dumps(pipeline(model="org/pushed", trust_remote_code=True)(tweet)))
ner = pipeline(model="{REPO}", trust_remote_code=True)
ner(tweet)
ner.push_to_hub("org/pipeline")
print(json.dumps(pipeline(model="org/pipeline", trust_remote_code=True)(tweet)))
"""
    first, second = run_client(published.hub, stranger(code), published.home).splitlines()[-2:]
    assert first == second and json.loads(first)
    for repo in ("org/pushed", "org/pipeline"):
        assert CODE | {"vision/model.safetensors"} <= set(published.hub.files(repo))


def test_a_run_that_does_not_train_publishes_nothing(published, world, tmp_path):
    argv = flags(world, tmp_path, do_train=None, push_to_hub=True, hub_model_id=REPO)
    with pytest.raises(ValueError, match="--push_to_hub without --do_train: a run publishes what it trained"):
        run_mner(argv)


def test_results_of_another_version_are_refused_with_what_they_lack(published, results, tmp_path):
    shutil.copytree(published.folder, tmp_path / "old", ignore=shutil.ignore_patterns("checkpoint-*"))
    old = {key: value for key, value in results.items() if key not in ("examples", "types")}
    (tmp_path / "old" / "results.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match="results.json lacks examples, types: .* train again"):
        publish_model(tmp_path / "old", REPO)


@pytest.mark.slow
def test_a_name_alone_is_that_of_the_own_account(published):
    code = publishing(str(published.folder), "short")
    run_client(published.hub, code, published.home)
    assert b'pipeline(model="tester/short"' in published.hub.files("tester/short")["README.md"]


def test_what_is_meant_to_be_private_is_never_public(published):
    code = publishing(str(published.folder), "NAME", "--private")
    run_client(published.hub, code.replace("NAME", "org/secret"), published.home)
    assert published.hub.repos["model", "org/secret"].private
    with pytest.raises(AssertionError, match="error: The model repo org/tiny is public"):
        run_client(published.hub, code.replace("NAME", REPO), published.home)


@pytest.mark.slow
def test_a_model_that_was_trained_on_keeps_its_vision_model(published, world, tmp_path):
    more = {"model_name_or_path": published.folder, "text_model": None, "num_semantic_layers": None}
    more |= {"image_dir": None, "num_train_epochs": 1, "hub_model_id": "org/more"}
    run(published.hub, published.home, tmp_path / "more", world, **more)
    files = published.hub.files("org/more")
    assert files["vision/model.safetensors"] == published.hub.files(REPO)["vision/model.safetensors"]
    assert json.loads(files["processor_config.json"])["vision_source"] == {"subfolder": "vision"}
    assert b"| starts from | trained model in a folder of its maker, published |" in files["README.md"]


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
def test_nothing_half_trained_is_published(world, tmp_path, strategy):
    argv = flags(world, tmp_path / "out", push_to_hub=True, hub_model_id=REPO, hub_strategy=strategy)
    with pytest.raises(ValueError, match="a run is published once, at its end"):
        run_mner(argv)


def test_a_data_set_whose_card_cannot_be_read_is_called_by_its_folder(tmp_path):
    (tmp_path / "README.md").write_text("---\npretty_name: [\n---\n")
    assert data_set_name(DataArguments(data_dir=str(tmp_path))) == tmp_path.name
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    assert data_set_name(DataArguments(data_dir=str(tmp_path))) == tmp_path.name


def test_a_folder_that_was_not_trained_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json: give the --output_dir of a training run"):
        publish_model(tmp_path, REPO)


def test_vision_model_of_the_hub_are_named_with_the_licence_of_their_repo(published, tmp_path):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    published.hub.add_repo("timm/resnet", tmp_path / "backbone")
    code = """
import json
from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.hub.model_card import weights_origins
config = HamLearningVisionConfig(detector="faster_rcnn_vg", detector_weights="org/gone")
config.global_backbone_config.name_or_path = "timm/resnet"
print(json.dumps(weights_origins(config)))
"""
    backbone, detector = json.loads(run_client(published.hub, code, published.home))
    assert backbone == {"part": "global backbone", "origin": "timm/resnet", "license": "bsd-3-clause"}
    assert detector["origin"] == "org/gone" and detector["license"].startswith("not recorded")


def test_vision_model_of_unknown_origin_say_so(published):
    [backbone] = weights_origins(HamLearningVisionConfig(detector="grid"))
    assert backbone["origin"] == "not recorded"


# -------------------------------------------------------------------------------------------------- the whole path


@pytest.mark.slow
def test_from_the_sample_by_one_command_to_a_strangers_answer(published_sample):
    sample = published_sample
    results = json.loads((sample.folder / "results.json").read_text())
    assert results["test"]["f1"] > 0.8
    tweets = load_tweets(sample.data)["test"]
    shown = next(row for row in tweets if row["image"] is not None)
    shown["image"].save(sample.home / "picture.png")
    code = f"""
ner = pipeline(model="org/sample", trust_remote_code=True)
text = {" ".join(shown["tokens"])!r}
print(json.dumps([ner({results["examples"][0]["text"]!r}), ner({{"text": text, "image": "picture.png"}})]))
"""
    example, seen = json.loads(run_client(sample.hub, stranger(code), sample.home).splitlines()[-1])
    assert example == results["examples"][0]["entities"] != []
    [line] = [line for line in predictions(sample.folder) if line["id"] == shown["id"]]
    assert [(e["entity_group"], e["word_start"], e["word_end"]) for e in seen] == [
        (e["type"], e["start"], e["end"]) for e in line["entities"]
    ]
    assert seen[0]["relevance"] == pytest.approx(line["relevance"], abs=0.05)  # seen in bf16 there


def predictions(folder) -> list[dict]:
    return list(map(json.loads, (folder / "predictions_test.jsonl").read_text().splitlines()))
