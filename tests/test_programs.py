"""Programs of others that read any token classifier, each in an environment of its own: what comes out of them."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import evaluate
import pytest
from datasets import Dataset
from transformers import AutoModelForTokenClassification, AutoProcessor, pipeline

from conftest import ROOT
from hamlearning.training.run import main as run_mner
from tiny_world import flags, results_of, save_seeing_model


pytestmark = pytest.mark.slow
TEXTS = ["flying to rome with ann bob !", "i met cleo today", "so tired"]
SPACY = (
    *("spacy==3.8.18", "catalogue==2.0.10", "confection==1.3.4", "cymem==2.0.16", "murmurhash==1.0.16", "blis==1.3.4"),
    *("preshed==3.0.13", "smart_open==9.0.2", "spacy-legacy==3.0.12", "spacy-loggers==1.0.5", "srsly==2.5.6"),
    *("thinc==8.3.14", "wasabi==1.1.3", "weasel==1.0.1", "cloudpathlib==0.26.0", "wrapt==2.5.2"),
)


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    """A model of the tiny world that has learned it, with the probabilities of its predictions."""
    folder = tmp_path_factory.mktemp("learned") / "model"
    run_mner(flags(world, folder, num_train_epochs=30, predict_probabilities=True))
    return folder


@pytest.fixture(scope="module")
def expected(model):
    """Type, start and end of each entity of each text."""
    ner = pipeline(model=str(model), trust_remote_code=True)
    found = [[[entity["entity_group"], entity["start"], entity["end"]] for entity in tweet] for tweet in ner(TEXTS)]
    assert found == [[["LOC", 10, 14], ["PER", 20, 27]], [["PER", 6, 10]], []]
    return found


def said(environment, code, *arguments):
    """What a program prints last, as JSON."""
    return json.loads(environment.run(code, *arguments).splitlines()[-1])


def with_the_component(environment):
    """The environment, in which spaCy finds the component by its entry point, as in one where it was installed."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["spacy_factories"]
    asked = [environment.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    installed = Path(subprocess.check_output(asked, text=True).strip()) / "as_installed-0.dist-info"
    installed.mkdir(exist_ok=True)
    lines = [f"{name} = {place}" for name, place in entry_points.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[spacy_factories]", *lines, ""]))
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: as-installed\nVersion: 0\n")
    return environment


def test_spacy_gets_the_entities(own_environment, model, expected):
    code = """
import json, sys
import spacy
nlp = spacy.blank("en")
nlp.add_pipe("hf_token_pipe", config={"model": sys.argv[1], "kwargs": {"trust_remote_code": True}})
print(json.dumps([[[e.label_, e.start_char, e.end_char] for e in doc.ents] for doc in nlp.pipe(sys.argv[2:])]))
"""
    environment = own_environment("spacy-huggingface-pipelines==0.0.4", "spacy-alignments==0.9.3", *SPACY)
    assert said(environment, code, model, *TEXTS) == expected


def test_a_pipeline_of_spacy_alone_does_not_wait_for_the_tagger(own_environment):
    """spaCy imports every installed factory with its first pipeline, whoever's that is."""
    code = """
import json, sys
import spacy
nlp = spacy.blank("en")
behind_the_tagger = {"transformers", "torchvision", "pyarrow"} & sys.modules.keys()
print(json.dumps([nlp.has_factory("hamlearning"), sorted(behind_the_tagger)]))
"""
    assert said(with_the_component(own_environment(*SPACY)), code) == [True, []]


def test_the_component_of_spacy_tags_texts_and_pictures(own_environment, model, expected, world, tmp_path):
    """By its entry point, in one process and two, after a round over the disk; pictures by attribute and context."""
    environment = with_the_component(own_environment(*SPACY))
    code = """
import json, sys
import spacy
from spacy import displacy
nlp = spacy.blank("en")
nlp.add_pipe("hamlearning", config={"model": sys.argv[1], "threads": 1})
nlp.to_disk(sys.argv[4])
nlp, texts = spacy.load(sys.argv[4]), json.loads(sys.argv[3])
docs = list(nlp.pipe(texts)) + list(nlp.pipe(texts, n_process=2, batch_size=2))
print(json.dumps([[[e.label_, e.start_char, e.end_char] for e in doc.ents] for doc in docs]))
scores = [e._.score for doc in docs for e in doc.ents]
assert scores and all(0 < score <= 1 for score in scores), scores
assert "<mark" in displacy.render(docs[0], style="ent", jupyter=False)
seeing = spacy.blank("en")
seeing.add_pipe("hamlearning", config={"model": sys.argv[2], "threads": 1, "threshold": 0.9})
tweets = [("i met ann", {"image": sys.argv[5]}), ("i met ann", {"image": "gone.png"}), ("i met ann", None)]
doc = seeing.make_doc("i met ann")
doc._.image = open(sys.argv[5], "rb").read()
docs = [*(doc for doc, _ in seeing.pipe(tweets, as_tuples=True)), seeing(doc)]
assert all(e._.score >= 0.9 for doc in docs for e in doc.ents)
print(json.dumps([[doc._.relevance is not None, doc._.image_error] for doc in docs]))
"""
    picture = sorted((world / "images").glob("*.png"))[0]
    seeing = save_seeing_model(world, tmp_path / "seeing")
    lines = environment.run(code, model, seeing, json.dumps(TEXTS), tmp_path / "nlp", picture).splitlines()[-2:]
    found, seen = map(json.loads, lines)
    assert found == expected * 2
    assert [row[0] for row in seen] == [True, False, False, True]
    assert "gone.png" in seen[1][1] and [row[1] for row in (seen[0], *seen[2:])] == [None] * 3


def test_presidio_gets_the_entities(own_environment, model, expected):
    """As a component of spaCy, and as a recognizer of its own whose pipeline is this one."""
    code = """
import json, sys
import spacy
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NlpEngineProvider
from presidio_analyzer.predefined_recognizers.ner import HuggingFaceNerRecognizer
from transformers import pipeline

class Recognizer(HuggingFaceNerRecognizer):
    def load(self):
        self.ner_pipeline = pipeline(
            model=self.model_name, aggregation_strategy=self.aggregation_strategy, trust_remote_code=True
        )

nlp = spacy.blank("en")
config = {"model": sys.argv[1], "pipeline_kwargs": {"trust_remote_code": True}}
nlp.add_pipe("presidio_hf_token_pipe", config=config)
docs = nlp.pipe(sys.argv[2:])
of_spacy = [[[e.label_, e.start_char, e.end_char] for e in doc.spans["bert-base-ner"]] for doc in docs]
names = {"nlp_engine_name": "no_op", "models": [{"lang_code": "en", "model_name": "no_op"}]}
registry = RecognizerRegistry(supported_languages=["en"])
registry.add_recognizer(Recognizer(model_name=sys.argv[1], threshold=0))
analyzer = AnalyzerEngine(
    nlp_engine=NlpEngineProvider(nlp_configuration=names).create_engine(), registry=registry,
    supported_languages=["en"],
)
short = {"PERSON": "PER", "LOCATION": "LOC"}
found = [
    sorted([short[e.entity_type], e.start, e.end] for e in analyzer.analyze(text, language="en"))
    for text in sys.argv[2:]
]
print(json.dumps([of_spacy, found]))
"""
    environment = own_environment(
        *("presidio-analyzer==2.2.366", "phonenumbers==9.0.43", "tldextract==5.4.0", "requests-file==3.0.1"),
        *SPACY,
    )
    assert said(environment, code, model, *TEXTS) == [expected, expected]


def test_haystack_gets_the_entities(own_environment, model, expected):
    """Its extractor asks for the task by its old name, `ner`."""
    code = """
import json, os, sys
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
from haystack import Document
from haystack_integrations.components.extractors.transformers import TransformersNamedEntityExtractor
extractor = TransformersNamedEntityExtractor(model=sys.argv[1], pipeline_kwargs={"trust_remote_code": True})
documents = extractor.run(documents=[Document(content=text) for text in sys.argv[2:]])["documents"]
found = [[[e.entity, e.start, e.end] for e in document.meta["named_entities"]] for document in documents]
print(json.dumps([type(extractor.pipeline).__name__, found]))
"""
    environment = own_environment(
        *("transformers-haystack==2.0.0", "haystack-ai==3.4.1", "lazy_imports==1.2.0", "backoff==2.2.1"),
        *("docstring_parser==0.18.0", "filetype==1.2.0", "jsonschema==4.26.0", "referencing==0.37.0"),
        *("jsonschema-specifications==2025.9.1", "rpds-py==2026.9.1", "posthog==7.91.1", "openai==3.57.0"),
        *("distro==1.9.0", "jiter==0.19.0", "sniffio==1.3.1", "tenacity==9.2.1", "wrapt==2.5.2"),
    )
    assert said(environment, code, model, *TEXTS) == ["HamLearningPipeline", expected]


def test_cleanlab_finds_a_tag_that_was_made_wrong(own_environment, model):
    """As docs/ecosystem.md has it."""
    page = (ROOT / "docs" / "ecosystem.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "from cleanlab" in block]
    lines = [json.loads(line) for line in (model / "predictions_test.jsonl").read_text().splitlines()]
    tweet = next(line for line in lines if "met" in line["tokens"])
    assert tweet["ner_tags"][2] == "B-PER"
    tweet["ner_tags"][2] = "O"
    environment = own_environment("cleanlab==2.9.0", "termcolor==3.3.0")
    file = environment.folder / "outputs" / "probable" / "predictions_test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert environment.run(code).splitlines() == [f"{tweet['tokens'][2]} O"]


def test_evaluate_gives_the_model_s_own_score(model):
    """Of a model and its tokenizer: evaluate 0.4.6 takes no pipeline that is made already beside transformers 5."""
    lines = [json.loads(line) for line in (model / "predictions_test.jsonl").read_text().splitlines()]
    columns = {name: [line[name] for line in lines] for name in ("tokens", "ner_tags")}
    scores = evaluate.evaluator("token-classification").compute(
        model_or_pipeline=AutoModelForTokenClassification.from_pretrained(model, trust_remote_code=True),
        tokenizer=AutoProcessor.from_pretrained(model, trust_remote_code=True).tokenizer,
        data=Dataset.from_dict(columns),
        metric=evaluate.load(str(ROOT / "hamlearning" / "scores" / "mner_scores.py")),
    )
    assert scores["f1"] == pytest.approx(results_of(model)["test"]["f1"]) and scores["f1"] > 0.8
    with pytest.raises(AttributeError, match="TFPreTrainedModel"):
        evaluate.evaluator("token-classification").compute(
            model_or_pipeline=pipeline(model=str(model), trust_remote_code=True),
            data=Dataset.from_dict(columns),
            metric=evaluate.load(str(ROOT / "hamlearning" / "scores" / "mner_scores.py")),
        )
