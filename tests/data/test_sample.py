"""The sample data set: what it promises to those who train and measure on it."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import AutoModel, AutoTokenizer

from hamlearning.data.features import VisualFeatures


def _script():
    path = Path(__file__).parents[2] / "datasets" / "sample" / "make_sample.py"
    spec = importlib.util.spec_from_file_location("make_sample", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_sample"] = module
    spec.loader.exec_module(module)
    return module


make_sample = _script()
SMALL = ["--train", "30", "--validation", "10", "--test", "10"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    make_sample.main(["--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def features(folder):
    return VisualFeatures(folder / "visual_features.parquet")


@pytest.fixture(scope="module")
def splits(folder, features, tmp_path_factory):
    """Every tweet with its tags as text, the type and words of its ambiguous name, and the classes in its picture."""
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path_factory.mktemp("cache")))
    return {name: [read_tweet(row, features) for row in rows] for name, rows in loaded.items()}


@pytest.fixture(scope="module")
def tweets(splits):
    return [tweet for rows in splits.values() for tweet in rows]


def read_tweet(row, features):
    tags = [make_sample.TAGS[tag] for tag in row["ner_tags"]]
    entities = {}
    for i, tag in enumerate(tags):
        if tag.startswith("B-"):
            inside = i + 1 < len(tags) and tags[i + 1].startswith("I-")
            entities[" ".join(row["tokens"][i : i + 1 + inside]).lower()] = tag[2:]
    ambiguous = [name for name in entities if name in {name.lower() for name in make_sample.NAMES}]
    assert len(ambiguous) == 1, row["tokens"]
    seen = features[row["id"]]
    return {
        **row,
        "tags": tags,
        "text": " ".join(row["tokens"]).lower(),
        "entities": entities,
        "name": ambiguous[0],
        "type": entities[ambiguous[0]],
        "classes": Counter(make_sample.CLASS_NAMES[i] for i in seen["class_ids"]),
        "boxes": {make_sample.CLASS_NAMES[i]: box for i, box in zip(seen["class_ids"], seen["boxes"], strict=True)},
    }


def cue(tweet):
    """The type whose cue clause the tweet holds, or None."""
    for kind, clauses in make_sample.CUE_CLAUSES.items():
        if any(clause.format(tweet["name"]).lower() in tweet["text"] for clause in clauses):
            return kind
    return None


def shown(classes):
    """The types whose scene or arrangement pair is among the classes."""
    scenes = {kind for kind, pairs in make_sample.SCENES.items() if any(set(pair) <= set(classes) for pair in pairs)}
    pairs = {kind for kind, (a, _, b) in make_sample.ARRANGEMENTS.items() if {a, b} <= set(classes)}
    return scenes | pairs


def relation(first, second, size):
    """Where the first box is, seen from the second one, as SPATIAL_RELATIONS tells them apart."""
    (x, y, h, w), (u, v, t, s) = first, second
    dx, dy = (x - u) * size[0], (y - v) * size[1]
    if abs(x - u) <= (s - w) / 2 and abs(y - v) <= (t - h) / 2:
        return "inside"
    assert np.hypot(dx, dy) <= 0.5 * np.hypot(*size), "too far apart for any relation"
    assert abs(dx) > abs(dy), "in a sector above or below"
    return "left of" if dx < 0 else "right of"


# ----------------------------------------------------------------------------------------------------------- files


def test_load_dataset_gives_the_columns_with_tags_in_the_common_order(folder, tmp_path):
    data = load_dataset(str(folder), cache_dir=str(tmp_path))
    assert {name: len(rows) for name, rows in data.items()} == {"train": 600, "validation": 150, "test": 150}
    for rows in data.values():
        assert rows.column_names == ["id", "tokens", "ner_tags", "image", "related", "decided_by"]
        assert rows.features["ner_tags"].feature.names == "O B-PER I-PER B-LOC I-LOC B-ORG I-ORG B-MISC I-MISC".split()
        assert rows[0]["image"].format == "PNG"
        assert set(rows["decided_by"]) == {"scene", "arrangement", "text"}


def test_the_same_seed_gives_the_same_bytes_and_another_one_another_sample(tmp_path):
    for name, seed in (("one", "7"), ("two", "7"), ("three", "8")):
        make_sample.main(["--output", str(tmp_path / name), "--seed", seed, *SMALL])
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) >= 8
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    tables = [pq.read_table(tmp_path / name / "data" / "train-00000-of-00001.parquet") for name in ("one", "three")]
    assert tables[0]["tokens"] != tables[1]["tokens"]


def test_a_sample_made_again_in_its_folder_is_not_read_from_the_cache_of_the_first(tmp_path):
    first, second = [], []
    for seed, texts in (("1", first), ("2", second)):
        make_sample.main(["--output", str(tmp_path / "sample"), "--seed", seed, *SMALL])
        texts += load_dataset(str(tmp_path / "sample"), split="train", cache_dir=str(tmp_path / "cache"))["tokens"]
    assert first != second
    files = Dataset.from_parquet(str(tmp_path / "sample/data/train-00000-of-00001.parquet"), cache_dir=str(tmp_path))
    assert second == list(files["tokens"])


def test_no_text_is_in_two_splits(splits):
    texts = [{tweet["text"] for tweet in rows} for rows in splits.values()]
    assert len(set.union(*texts)) == sum(map(len, texts))


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_a_count_that_is_none_is_named_with_its_argument(count, capsys):
    with pytest.raises(SystemExit):
        make_sample.main([f"--validation={count}"])
    error = capsys.readouterr().err
    assert "--validation" in error and repr(count) in error


# ------------------------------------------------------------------------------------------------- who decides what


def test_at_least_half_of_the_entities_are_decided_by_the_picture(splits):
    for rows in splits.values():
        decided = sum(tweet["decided_by"] != "text" for tweet in rows)
        assert decided >= 0.5 * sum(len(tweet["entities"]) for tweet in rows)


def test_the_words_say_nothing_of_a_type_that_the_picture_decides(splits):
    def related(*names):
        return [tweet for name in names for tweet in splits[name] if tweet["related"]]

    def bags(rows):
        return np.array([[word in tweet["text"].split() for word in words] for tweet in rows], dtype=float)

    train, held_out = related("train"), related("validation", "test")
    words = sorted({word for tweet in train for word in tweet["text"].split()})
    model = LogisticRegression(C=0.3, max_iter=1000).fit(bags(train), [tweet["type"] for tweet in train])
    assert model.score(bags(held_out), [tweet["type"] for tweet in held_out]) < 0.35


def test_types_are_as_frequent_as_each_other_whoever_decides(splits):
    for rows in splits.values():
        for decider in ("scene", "arrangement", "text"):
            counts = Counter(tweet["type"] for tweet in rows if tweet["decided_by"] == decider)
            assert max(counts.values()) - min(counts.values()) <= 1


def test_a_scene_shows_objects_of_the_type_and_of_no_other(tweets):
    for tweet in tweets:
        if tweet["decided_by"] == "scene":
            assert shown(tweet["classes"]) == {tweet["type"]}


def test_no_count_of_one_class_decides_the_type(tweets):
    scenes = [tweet for tweet in tweets if tweet["decided_by"] == "scene"]
    for name in make_sample.CLASS_NAMES:
        types = {}
        for tweet in scenes:
            types.setdefault(tweet["classes"][name], Counter())[tweet["type"]] += 1
        assert sum(counts.most_common(1)[0][1] for counts in types.values()) < 0.55 * len(scenes), name


def test_every_type_has_several_scenes():
    assert all(len(set(pairs)) >= 3 for pairs in make_sample.SCENES.values())


def test_a_third_of_the_pictures_is_unrelated_and_their_words_say_the_type(splits):
    for rows in splits.values():
        unrelated = [tweet for tweet in rows if tweet["decided_by"] == "text"]
        assert len(unrelated) == len(rows) // 3
        assert [tweet for tweet in rows if not tweet["related"]] == unrelated
        assert all(cue(tweet) == tweet["type"] for tweet in unrelated)


def test_unrelated_pictures_show_any_type(splits):
    unrelated = [tweet for tweet in splits["train"] if not tweet["related"]]
    scenes = [tweet for tweet in unrelated if len(shown(tweet["classes"])) == 1]
    assert len(scenes) == round(0.8 * len(unrelated))  # the others show an arrangement
    assert 0.15 < np.mean([shown(tweet["classes"]) == {tweet["type"]} for tweet in scenes]) < 0.35


def test_the_topic_word_is_in_the_picture_exactly_when_it_is_related(tweets):
    for tweet in tweets:
        (topic,) = set(make_sample.TOPICS) & set(tweet["text"].split())
        assert (tweet["classes"][topic] > 0) == tweet["related"]


def test_the_words_of_picture_decided_tweets_suggest_no_type(tweets):
    assert all((cue(tweet) is None) == tweet["related"] for tweet in tweets)


def test_misleading_cues_are_in_the_asked_share_of_scene_tweets_and_say_nothing(tmp_path):
    sizes = ["--train", "300", "--validation", "10", "--test", "10"]
    make_sample.main(["--output", str(tmp_path), "--misleading_cues", "0.5", *sizes])
    features = VisualFeatures(tmp_path / "visual_features.parquet")
    rows = Dataset.from_parquet(str(tmp_path / "data/train-00000-of-00001.parquet"), cache_dir=str(tmp_path / "cache"))
    tweets = [read_tweet(row, features) for row in rows]
    scenes = [tweet for tweet in tweets if tweet["decided_by"] == "scene"]
    cued = [tweet for tweet in scenes if cue(tweet)]
    assert 0.35 < len(cued) / len(scenes) < 0.65
    assert 0.1 < np.mean([cue(tweet) == tweet["type"] for tweet in cued]) < 0.4
    assert not any(cue(tweet) for tweet in tweets if tweet["decided_by"] == "arrangement")


@pytest.mark.parametrize("share", ["1.5", "-0.1", "nan", "half"])
def test_a_share_that_is_none_is_named_with_its_argument(share, capsys):
    with pytest.raises(SystemExit):
        make_sample.main([f"--misleading_cues={share}"])
    error = capsys.readouterr().err
    assert "--misleading_cues" in error and repr(share) in error


def test_no_clause_names_an_object_class():
    clauses = [
        *make_sample.NEUTRAL_CLAUSES,
        *make_sample.TOPIC_PHRASES,
        *make_sample.SECOND_PHRASES,
        *make_sample.TAILS,
    ]
    clauses += [clause for several in make_sample.CUE_CLAUSES.values() for clause in several]
    assert not set(make_sample.CLASS_NAMES) & {word for clause in clauses for word in clause.split()}


# ------------------------------------------------------------------------------------------------------ arrangements


def test_a_fifth_of_the_picture_decided_tweets_are_decided_by_an_arrangement(splits):
    for rows in splits.values():
        deciders = Counter(tweet["decided_by"] for tweet in rows)
        assert deciders["arrangement"] == (deciders["arrangement"] + deciders["scene"]) / 5


def test_the_relation_of_the_pair_says_the_type(tweets):
    for tweet in tweets:
        if tweet["decided_by"] == "arrangement":
            first, expected, second = make_sample.ARRANGEMENTS[tweet["type"]]
            assert tweet["classes"][first] == tweet["classes"][second] == 1
            found = relation(tweet["boxes"][first], tweet["boxes"][second], tweet["image"].size)
            assert found == expected or (expected == "beside" and found in ("left of", "right of"))


def test_the_classes_of_a_pair_are_in_no_scene():
    scenes = {name for pairs in make_sample.SCENES.values() for pair in pairs for name in pair}
    assert not set(make_sample.PAIR_THINGS) & (scenes | set(make_sample.TOPICS))


@pytest.fixture(scope="module", params=[("PER", "ORG"), ("MISC", "LOC")], ids="-".join)
def arranged(request):
    """Pictures of one pair: for each its type, its regions, its size and its descriptor."""
    rng = np.random.default_rng(0)
    kinds = [request.param[i % 2] for i in range(240)]
    drawn = [make_sample.draw_picture(rng, kind, True) for kind in kinds]
    return [
        (kind, regions, picture.size, make_sample.describe_picture(picture))
        for kind, (picture, regions) in zip(kinds, drawn, strict=True)
    ]


def accuracy(inputs, kinds):
    """How well a linear model tells the types of held-out pictures."""
    inputs = np.array(inputs, dtype=float)
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
    return cross_val_score(LogisticRegression(C=0.02, max_iter=1000), inputs, kinds, cv=5).mean()


def test_nothing_but_positions_tells_an_arrangement(arranged):
    kinds = [kind for kind, *_ in arranged]
    count = len(make_sample.CLASS_NAMES)
    classes = [np.bincount([region.class_id for region in regions], minlength=count) for _, regions, *_ in arranged]
    pairs = [
        np.concatenate(
            [
                region.features
                for name in make_sample.PAIR_THINGS
                for region in regions
                if make_sample.CLASS_NAMES[region.class_id] == name
            ]
        )
        for _, regions, *_ in arranged
    ]
    assert accuracy(classes, kinds) < 0.6
    assert accuracy(pairs, kinds) < 0.6
    assert accuracy([picture for *_, picture in arranged], kinds) < 0.6


@pytest.mark.parametrize("kinds", [("PER", "ORG"), ("MISC", "LOC")], ids="-".join)
def test_the_place_of_one_object_alone_hardly_tells_an_arrangement(kinds):
    # 1500 pairs, since the figure of 240 varies by 0.04; a picture has an edge, so it cannot be 0.5 for left and right
    rng, size = np.random.default_rng(0), (150, 115)
    answers = [kinds[i % 2] for i in range(1500)]
    boxes = {}
    for kind in answers:
        for sprite in make_sample.place_pair(rng, *make_sample.ARRANGEMENTS[kind], size):
            region = make_sample.Region(0, make_sample.visible_box(sprite, size), None)
            box = make_sample.relative_boxes([region], size)[0]
            boxes.setdefault(sprite.name, []).append(np.concatenate([box, (box - 0.5) ** 2]))
    for inputs in boxes.values():
        assert accuracy(inputs, answers) < 0.68


# ----------------------------------------------------------------------------------------------------------- pictures


def test_pictures_show_three_to_eight_objects_among_them_a_topic(tweets):
    counts = Counter(sum(tweet["classes"].values()) for tweet in tweets)
    assert set(counts) == set(range(3, 9))
    assert all(set(tweet["classes"]) & set(make_sample.TOPICS) for tweet in tweets)


def test_pictures_differ_in_size_and_shape(tweets):
    sizes = [tweet["image"].size for tweet in tweets]
    assert min(width for width, _ in sizes) >= 128 and max(width for width, _ in sizes) <= 176
    ratios = [width / height for width, height in sizes]
    assert min(ratios) < 1.2 and max(ratios) > 1.5


@pytest.mark.parametrize("name", make_sample.CLASS_NAMES)
@pytest.mark.parametrize("corner", [(30, 20), (-4, 70)], ids=["whole", "cut off"])
def test_the_box_is_the_extent_of_what_is_drawn(name, corner):
    thing = make_sample.draw_thing(np.random.default_rng(3), name, 110)
    picture = Image.new("RGB", (160, 110), "magenta")
    picture.paste(thing, corner, thing)
    rows, columns = np.nonzero((np.asarray(picture) != (255, 0, 255)).any(axis=2))
    drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    box = make_sample.visible_box(make_sample.Sprite(name, thing, corner), picture.size)
    assert np.abs(np.subtract(box, drawn)).max() <= 1  # a pixel that is hardly tinted counts as background


def test_a_mirrored_picture_looks_the_same(tweets):
    for tweet in tweets[:20]:
        mirrored = tweet["image"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        np.testing.assert_allclose(
            make_sample.describe_picture(mirrored), make_sample.describe_picture(tweet["image"]), atol=1e-6
        )


def test_every_picture_has_its_visual_features(tweets, features):
    assert features.class_names == make_sample.CLASS_NAMES
    assert set(features) == {tweet["id"] for tweet in tweets}
    for tweet in tweets:
        seen = features[tweet["id"]]
        assert tuple(seen["image_size"]) == tweet["image"].size
        assert seen["image_features"].shape == (64,) and seen["features"].shape == (len(seen["boxes"]), 64)
        x, y, h, w = seen["boxes"].T
        assert (
            min((x - w / 2).min(), (y - h / 2).min()) > -1e-6 and max((x + w / 2).max(), (y + h / 2).max()) < 1 + 1e-6
        )
        assert (np.diff(seen["scores"]) <= 0).all() and seen["scores"].max() <= 1


def test_features_are_scaled_to_the_training_pictures(splits, features):
    rows = [features[tweet["id"]] for tweet in splits["train"]]
    for values in (
        np.array([row["image_features"] for row in rows]),
        np.concatenate([row["features"] for row in rows]),
    ):
        assert np.abs(values.mean(0)).max() < 0.1
        assert values.std(0).max() < 1.05 and np.median(values.std(0)) > 0.9


def test_the_order_of_regions_tells_nothing(tweets):
    pairs = [list(tweet["boxes"]) for tweet in tweets if {"child", "flag"} <= set(tweet["classes"])]
    assert 0.3 < np.mean([names.index("child") < names.index("flag") for names in pairs]) < 0.7


# -------------------------------------------------------------------------------------------------------------- words


def test_tweets_are_split_at_punctuation_and_have_six_to_eighteen_tokens(tweets):
    for tweet in tweets:
        words = [word for word, _ in BertPreTokenizer().pre_tokenize_str(" ".join(tweet["tokens"]))]
        assert words == tweet["tokens"]
        assert 6 <= len(words) <= 18
    assert {"#", "@"} <= {token for tweet in tweets for token in tweet["tokens"]}


def test_some_names_have_two_words_and_some_tweets_no_capitals(tweets):
    assert {f"I-{kind}" for kind in make_sample.TYPES} <= {
        tag for tweet in tweets if " " in tweet["name"] for tag in tweet["tags"]
    }
    assert 0.15 < np.mean([" ".join(tweet["tokens"]).islower() for tweet in tweets]) < 0.35


def test_some_tweets_have_a_second_name_that_is_plain_to_read(splits):
    types = {}
    for rows in splits.values():
        assert 0.25 < np.mean([len(tweet["entities"]) == 2 for tweet in rows]) < 0.35
        for tweet in rows:
            for name, kind in tweet["entities"].items():
                if name != tweet["name"]:
                    types.setdefault(name, set()).add(kind)
    assert all(len(kinds) == 1 for kinds in types.values())


def test_the_text_encoder_loads_and_knows_every_word(folder, tweets):
    tokenizer = AutoTokenizer.from_pretrained(folder / "text_encoder")
    model = AutoModel.from_pretrained(folder / "text_encoder").eval()
    assert (folder / "text_encoder" / "model.safetensors").exists()
    assert tokenizer.is_fast and len(tokenizer) == model.config.vocab_size
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 128, 4)
    assert (config.intermediate_size, config.max_position_embeddings, config.hidden_dropout_prob) == (256, 128, 0.1)
    texts = [tweet["tokens"] for tweet in tweets] + [["Zanzibar", "qwxz-37", "&", "UPPER"]]
    assert tokenizer.unk_token_id not in {
        i for ids in tokenizer(texts, is_split_into_words=True)["input_ids"] for i in ids
    }
    states = model(
        **tokenizer(texts[:2], is_split_into_words=True, padding=True, return_tensors="pt")
    ).last_hidden_state
    assert states.shape[-1] == 128
