"""The callable in the engines of others, each in an environment of its own."""

import json
import os
import shutil

import pytest

from hamlearning.tagging import Tagger


SPARK = """
import json, sys
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from hamlearning.tagging import Tagger

tagger = Tagger(sys.argv[1], threads=1)
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
tweets = spark.createDataFrame([(str(n), f"i met ann in oslo {n}") for n in range(50)], "id string, text string")
found = tweets.mapInArrow(tagger, from_arrow_schema(tagger.schema)).collect()
print(json.dumps([row.asDict(recursive=True) for row in found]))
"""


@pytest.mark.slow
def test_spark_tags_as_one_process_does(trained_folder, own_environment, monkeypatch):
    if shutil.which("java") is None:
        pytest.skip("needs a Java, in which Spark runs")
    environment = own_environment("pyspark==4.3.0", "py4j==0.10.9.9")
    for name, value in (
        ("PYSPARK_PYTHON", str(environment.python)),
        ("SPARK_LOCAL_IP", "127.0.0.1"),
        ("PYTHONWARNINGS", "ignore"),
    ):
        monkeypatch.setitem(os.environ, name, value)
    found = json.loads(environment.run(SPARK, trained_folder).splitlines()[-1])
    texts = {"id": [str(n) for n in range(50)], "text": [f"i met ann in oslo {n}" for n in range(50)]}
    expected = Tagger(trained_folder)(texts)
    assert [row["id"] for row in found] == expected["id"]
    spans = [
        [[(e["word"], e["start"]) for e in row] for row in rows]
        for rows in (
            [row["entities"] for row in found],
            expected["entities"],
        )
    ]
    assert spans[0] == spans[1] and any(spans[0])
