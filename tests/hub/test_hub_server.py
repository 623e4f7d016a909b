"""The Hub server of the tests, proven with the real clients: each test is one subprocess, or one plain request."""

import hashlib
import http.client
import json
import urllib.error
import urllib.request

import pytest

from hub_server import HubServer, run_client


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    """A repo to be: a text file, a file in a folder, and one that goes to LFS."""
    folder = tmp_path / "repo"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "README.md").write_text("---\npipeline_tag: token-classification\n---\n# First\n")
    (folder / "deep" / "er" / "notes.txt").write_text("notes\n")
    (folder / "weights.bin").write_bytes(bytes(range(256)))
    return folder


def fetch(hub, path, method="GET", body=None, **headers):
    request = urllib.request.Request(hub.url + path, data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_a_model_that_was_pushed_loads_with_equal_weights(hub, tmp_path):
    code = """
import torch
from transformers import AutoModel, BertConfig, BertModel
config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
model = BertModel(config).eval()
model.push_to_hub("org/tiny")
loaded = AutoModel.from_pretrained("org/tiny")
assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
print(type(loaded).__name__)
"""
    assert run_client(hub, code, tmp_path).split() == ["BertModel"]
    assert {"config.json", "model.safetensors"} <= set(hub.files("org/tiny"))
    _, revision, _ = hub.find("model", "org/tiny")
    assert ("GET", f"/org/tiny/resolve/{revision}/config.json") in hub.requests


def test_a_data_set_that_was_pushed_loads_whole_and_as_a_stream(hub, tmp_path):
    code = """
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, load_dataset
tags = List(ClassLabel(names=["O", "B-PER"]))
features = Features({"id": Value("string"), "tokens": List(Value("string")), "ner_tags": tags})
rows = {"id": ["1", "2", "3"], "tokens": [["a", "B"], ["c"], []], "ner_tags": [[0, 1], [0], []]}
pushed = Dataset.from_dict(rows, features=features)
DatasetDict({"train": pushed, "test": pushed.select([0])}).push_to_hub("org/tweets")
loaded = load_dataset("org/tweets")
assert loaded["train"].to_dict() == rows and loaded["train"].features == features, loaded["train"].to_dict()
streamed = load_dataset("org/tweets", split="train", streaming=True)
assert list(streamed) == pushed.to_list(), list(streamed)
print({name: len(split) for name, split in loaded.items()})
"""
    assert run_client(hub, code, tmp_path).strip() == "{'train': 3, 'test': 1}"
    assert [path for path in hub.files("org/tweets", "dataset") if path.startswith("data/test-")]


def test_a_metric_loads_from_a_space(hub, tmp_path):
    space = tmp_path / "space"
    space.mkdir()
    (space / "sameness.py").write_text("""
import datasets
import evaluate
class Sameness(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", features=features)
    def _compute(self, predictions, references):
        return {"same": sum(p == r for p, r in zip(predictions, references))}
""")
    hub.add_repo("org/sameness", space, kind="space")
    code = """
import evaluate
print(evaluate.load("org/sameness").compute(predictions=[1, 2, 3], references=[1, 2, 4]))
"""
    assert run_client(hub, code, tmp_path).strip() == "{'same': 2}"
    assert ("GET", "/spaces/org/sameness/resolve/main/sameness.py") in hub.requests


def test_a_large_file_goes_through_lfs_and_an_unchanged_one_makes_no_commit(hub, tmp_path):
    code = """
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
api.create_repo("org/features", repo_type="dataset")
Path("features.parquet").write_bytes(b"PAR1" * 1000)
commits = [api.upload_file(
    repo_id="org/features", repo_type="dataset",
    path_or_fileobj="features.parquet", path_in_repo="train/features.parquet",
) for _ in range(2)]
assert commits[0].oid == commits[1].oid
info = api.get_paths_info("org/features", ["train", "train/features.parquet"], repo_type="dataset")
down = hf_hub_download("org/features", "train/features.parquet", repo_type="dataset")
assert Path(down).read_bytes() == b"PAR1" * 1000
print(info[0].path, info[1].size, info[1].lfs.sha256)
"""
    sha256 = hashlib.sha256(b"PAR1" * 1000).hexdigest()
    assert run_client(hub, code, tmp_path).split() == ["train", "4000", sha256]
    assert [path for method, path in hub.requests if method == "PUT"] == [f"/lfs/{sha256}"]
    assert hub.files("org/features", "dataset") == {"train/features.parquet": b"PAR1" * 1000}


def test_a_tag_and_a_commit_keep_what_main_has_lost(hub, folder, tmp_path):
    first = hub.add_repo("org/model", folder)
    code = """
from pathlib import Path
from huggingface_hub import HfApi, snapshot_download
api = HfApi()
api.create_tag("org/model", tag="v1/a")
api.upload_file(path_or_fileobj=b"# Second", path_in_repo="README.md", repo_id="org/model")
api.delete_folder("deep", repo_id="org/model")
for revision in ("main", "v1/a", FIRST):
    place = Path(snapshot_download("org/model", revision=revision))
    files = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    print(place.name, (place / "README.md").read_text().split()[-1], *files)
""".replace("FIRST", repr(first))
    main, tag, commit = [line.split() for line in run_client(hub, code, tmp_path).splitlines()]
    assert main[1:] == ["Second", "README.md", "weights.bin"]
    assert tag == commit == [first, "First", "README.md", "deep/er/notes.txt", "weights.bin"]


def test_repo_info_and_tree_list_what_the_folder_held(hub, folder, tmp_path):
    revision = hub.add_repo("org/model", folder)
    code = """
import json
from huggingface_hub import HfApi, HfFileSystem
api = HfApi()
info = api.model_info("org/model")
print(json.dumps({
    "sha": info.sha, "pipeline_tag": info.pipeline_tag, "files": api.list_repo_files("org/model"),
    "top": [entry.path for entry in api.list_repo_tree("org/model")],
    "deep": [entry.path for entry in api.list_repo_tree("org/model", "deep/er")],
    "part": list(HfFileSystem().read_block("org/model/weights.bin", 10, 3)),
    "spaces": [api.repo_exists("org/model"), api.repo_exists("org/model", repo_type="space")],
}))
"""
    assert json.loads(run_client(hub, code, tmp_path)) == {
        "sha": revision,
        "pipeline_tag": "token-classification",
        "files": ["README.md", "deep/er/notes.txt", "weights.bin"],
        "top": ["README.md", "deep", "weights.bin"],
        "deep": ["deep/er/notes.txt"],
        "part": [10, 11, 12],
        "spaces": [True, False],
    }


def test_what_is_missing_or_refused_raises_the_clients_own_exceptions(hub, folder, tmp_path):
    first = hub.add_repo("org/model", folder)
    code = """
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
def attempt(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        print(type(error).__name__, error.response.status_code)
    else:
        print("nothing raised")
attempt(hf_hub_download, "org/model", "absent.txt")
attempt(hf_hub_download, "org/model", "README.md", revision="absent")
attempt(hf_hub_download, "org/absent", "README.md")
attempt(api.delete_file, "absent.txt", "org/model")
attempt(api.create_repo, "org/model")
attempt(api.create_repo, "org/other", token=False)
attempt(api.upload_file, path_or_fileobj=b"", path_in_repo="a", repo_id="org/model", parent_commit=FIRST)
attempt(api.upload_file, path_or_fileobj=b"", path_in_repo="b", repo_id="org/model", parent_commit=FIRST)
api.delete_repo("org/model")
attempt(api.model_info, "org/model")
print(api.whoami()["name"], api.create_repo("mine").repo_id)
""".replace("FIRST", repr(first))
    assert run_client(hub, code, tmp_path).splitlines() == [
        "RemoteEntryNotFoundError 404",
        "RevisionNotFoundError 404",
        "RepositoryNotFoundError 404",
        "RemoteEntryNotFoundError 404",
        "HfHubHTTPError 409",
        "HfHubHTTPError 401",
        "nothing raised",
        "HfHubHTTPError 412",
        "RepositoryNotFoundError 404",
        "tester tester/mine",
    ]


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [("bytes=2-4", 206, [2, 3, 4]), ("bytes=253-", 206, [253, 254, 255]), ("bytes=-2", 206, [254, 255])],
)
def test_a_range_is_answered_with_its_bytes(hub, folder, asked, status, content):
    hub.add_repo("org/model", folder)
    got, headers, body = fetch(hub, "/org/model/resolve/main/weights.bin", Range=asked)
    assert (got, list(body)) == (status, content)
    assert headers["Content-Range"] == f"bytes {content[0]}-{content[-1]}/256"


def test_a_head_request_tells_the_size_and_hash_of_an_lfs_file(hub, folder):
    revision = hub.add_repo("org/model", folder)
    status, headers, _ = fetch(hub, "/org/model/resolve/main/weights.bin", "HEAD")
    assert (status, headers["Content-Length"]) == (200, "256")
    assert headers["X-Repo-Commit"] == revision
    assert headers["X-Linked-Etag"] == f'"{hashlib.sha256(bytes(range(256))).hexdigest()}"'
    assert headers["X-Linked-Size"] == "256"


def test_bytes_that_do_not_match_their_lfs_hash_are_refused(hub):
    assert fetch(hub, f"/lfs/{'0' * 64}", "PUT", b"other")[0] == 400


def test_seeding_a_repo_again_makes_a_new_revision_and_keeps_the_old(hub, folder):
    first = hub.add_repo("org/model", folder)
    (folder / "weights.bin").unlink()
    second = hub.add_repo("org/model", folder)
    assert first != second
    assert "weights.bin" in hub.files("org/model", rev=first)
    assert "weights.bin" not in hub.files("org/model")


# ------------------------------------------------------------------------------------------------------------- faults

FILE = "/org/model/resolve/main/weights.bin"


def test_a_fault_befalls_what_it_matches_and_only_so_often(hub, folder):
    hub.add_repo("org/model", folder)
    fault = hub.fail(f"GET {FILE}", "status", status=429, headers={"Retry-After": "7"}, times=1)
    assert fetch(hub, FILE, "HEAD")[0] == 200
    status, headers, _ = fetch(hub, FILE)
    assert (status, headers["Retry-After"], fault.hits) == (429, "7", 1)
    assert fetch(hub, FILE)[0] == 200


@pytest.mark.parametrize(
    ("kind", "error"), [("cut", http.client.IncompleteRead), ("lost answer", http.client.RemoteDisconnected)]
)
def test_a_connection_is_closed_within_the_answer_or_before_it(hub, folder, kind, error):
    hub.add_repo("org/model", folder)
    hub.fail(f"GET {FILE}", kind)
    with pytest.raises(error):
        fetch(hub, FILE)


def test_a_short_answer_says_that_it_is_all(hub, folder):
    hub.add_repo("org/model", folder)
    hub.fail(f"GET {FILE}", "short")
    _, headers, body = fetch(hub, FILE)
    assert headers["Content-Length"] == "128" and len(body) == 128


def test_an_upload_that_is_cut_is_not_kept(hub):
    data = bytes(1000)
    oid = hashlib.sha256(data).hexdigest()
    hub.fail("PUT /lfs/", "cut upload", times=1)
    with pytest.raises(OSError):
        fetch(hub, f"/lfs/{oid}", "PUT", data)
    assert hub.lfs == {}
    assert fetch(hub, f"/lfs/{oid}", "PUT", data)[0] == 200 and hub.lfs == {oid: data}


@pytest.mark.parametrize(("kind", "seconds"), [("stall", 0), ("late", 5), ("drip", 5)])
def test_a_slow_hub_is_as_slow_as_asked(hub, folder, kind, seconds):
    hub.add_repo("org/model", folder)
    hub.fail(f"GET {FILE}", kind, seconds=seconds)
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(hub.url + FILE, timeout=0.5).read()


def test_a_hub_that_is_down_refuses_connections_until_it_is_up(hub, folder):
    hub.add_repo("org/model", folder)
    with hub.down(), pytest.raises(urllib.error.URLError, match="refused"):
        fetch(hub, FILE)
    assert fetch(hub, FILE)[0] == 200
