"""What is known of a Ray cluster without one; tests/tagging/test_ray_engine.py has real ones."""

import sys

import pytest

from hamlearning.data import ray_cluster
from hamlearning.data.ray_cluster import share_with_ray


def test_without_ray_it_is_said_how_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ImportError, match=r'--engine ray needs Ray \(.*\): pip install "hamlearning\[ray\]"'):
        list(share_with_ray(abs, [1]))


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "room"),
    [
        ([{"CPU": 8.0}, {"CPU": 3.0}], 2, 0, 5),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], 1, 1, 2),
        ([{"CPU": 8.0, "GPU": 2.0}], 1, 0.5, 4),
        ([{"CPU": 1.0}], 2, 0, 1),
    ],
    ids=["cores", "GPUs", "shares of a GPU", "none yet"],
)
def test_there_are_as_many_workers_as_machines_have_room_for(machines, cpus, gpus, room):
    alive = [{"Alive": True, "Resources": resources} for resources in machines]
    assert ray_cluster._room([*alive, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}], cpus, gpus) == room


class Unportable(Exception):
    def __init__(self, place, reason):
        super().__init__(f"{place}: {reason}")


def test_an_error_that_cannot_be_sent_is_sent_in_words():
    sent = ray_cluster._portable(Unportable("a.parquet", "is none"))
    assert type(sent) is RuntimeError and str(sent) == "Unportable: a.parquet: is none"
