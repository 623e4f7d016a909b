#!/usr/bin/env bash
# pynif 0.3.1: a phrase's address has the offsets of the whole text and a running number, not its own.
#
# In NIF the address says where the phrase stands, so that what several tools say of a place meets at it. Here each tool's
# first phrase is "#offset_0_11_0": put together, as RDF is meant to be, two different names are one, with two beginnings,
# of which the reader takes one.
#
# Seen with Python 3.11 and rdflib 7.6.0 (of "Ana in Bonn" one annotator has "Ana", the other "Bonn")
#   addresses: ['http://x.example/1#offset_0_11_0'], beginnings: [0, 7]
#   phrases read from both: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet pynif==0.3.1 rdflib==7.6.0 six==1.17.0

cd "$folder"
venv/bin/python - 2>log <<'PYTHON' | tee said
from pynif import NIFCollection
from rdflib import Graph, URIRef

both = Graph()
for begin, end in ((0, 3), (7, 11)):
    annotator = NIFCollection(uri="http://x.example/")
    text = annotator.add_context(uri="http://x.example/1", mention="Ana in Bonn")
    text.add_phrase(beginIndex=begin, endIndex=end)
    both.parse(data=annotator.dumps(format="turtle"), format="turtle")

nif = "http://persistence.uni-leipzig.org/nlp2rdf/ontologies/nif-core#"
phrases = set(both.subjects(URIRef(f"{nif}anchorOf")))
begins = [begin.toPython() for phrase in phrases for begin in both.objects(phrase, URIRef(f"{nif}beginIndex"))]
print(f"addresses: {sorted(str(phrase) for phrase in phrases)}, beginnings: {sorted(begins)}")
[text] = NIFCollection.loads(both.serialize(format="turtle"), format="turtle").contexts
print("phrases read from both:", len(text.phrases))
PYTHON

diff said - <<'SAID'
addresses: ['http://x.example/1#offset_0_11_0'], beginnings: [0, 7]
phrases read from both: 1
SAID
