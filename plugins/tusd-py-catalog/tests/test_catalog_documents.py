"""Croissant and OpenLineage: what is made of an entry is what their specifications and libraries expect."""

from datetime import UTC, datetime

import msgspec
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    documentation_dataset,
    job_type_job,
    output_statistics_output_dataset,
    ownership_dataset,
    schema_dataset,
    storage_dataset,
)
from openlineage.client.serde import Serde
from tusd_py_catalog.croissant import croissant
from tusd_py_catalog.entries import Entry, Source
from tusd_py_catalog.facts import Facts, Field
from tusd_py_catalog.openlineage import events

FACTS = Facts(
    format="jsonl",
    bytes=120,
    sha256="a" * 64,
    rows=2,
    fields=(
        Field(name="id", type="integer", semantic="id"),
        Field(name="messages", type="list", semantic="conversation"),
        Field(name="messages[].role", type="string", semantic="role"),
        Field(name="tags", type="list"),
        Field(name="tags[]", type="string"),
        Field(name="page url", type="string", semantic="url"),
        Field(name="messages/role", type="string"),
    ),
)
ENTRY = Entry(
    upload_id="u2",
    owner="ann",
    name="chat",
    version=3,
    filename="chat.jsonl",
    description="Small talk.",
    license="CC0-1.0",
    tags=("en",),
    sources=(Source("u1", "u1"), Source("https://example.org/raw", "raw")),
    created_at=datetime(2026, 11, 22, 16, 0, tzinfo=UTC),
    facts=FACTS,
)
FORMER = msgspec.structs.replace(ENTRY, upload_id="u1", name="raw", version=1)

HIDDEN = ("_schemaURL", "schemaURL", "_producer")
FACETS = {
    "schema": lambda facet: schema_dataset.SchemaDatasetFacet(
        fields=[schema_dataset.SchemaDatasetFacetFields(**each) for each in facet["fields"]]
    ),
    "version": lambda facet: dataset_version_dataset.DatasetVersionDatasetFacet(**facet),
    "storage": lambda facet: storage_dataset.StorageDatasetFacet(**facet),
    "documentation": lambda facet: documentation_dataset.DocumentationDatasetFacet(**facet),
    "ownership": lambda facet: ownership_dataset.OwnershipDatasetFacet(
        owners=[ownership_dataset.Owner(**each) for each in facet["owners"]]
    ),
    "outputStatistics": lambda facet: output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(**facet),
    "jobType": lambda facet: job_type_job.JobTypeJobFacet(**facet),
}


def in_their_words(facets):
    """The facets as objects of OpenLineage's own client, whose classes are made from the specification."""
    return {
        name: FACETS[name]({key: value for key, value in facet.items() if not key.startswith("_")})
        for name, facet in facets.items()
    }


def without_versions(value):
    """An event without the URLs of schemas, which have the version that the client was made with."""
    if isinstance(value, dict):
        hidden = ("_schemaURL", "schemaURL", "_producer")
        return {
            key: without_versions(each) for key, each in value.items() if key not in hidden and each not in ({}, [])
        }
    return [without_versions(each) for each in value] if isinstance(value, list) else value


def test_the_events_are_what_openlineages_own_client_makes():
    """Built by its client from the same values, the events are the same, and their schemas are those of the client."""
    began = datetime(2026, 11, 22, 15, 0, tzinfo=UTC)
    made = events(ENTRY, began, "lab", {"u1": FORMER}.get)
    assert [without_versions(each) for each in made] == [without_versions(Serde.to_dict(theirs(each))) for each in made]
    start, end = made
    assert (start["eventType"], start["eventTime"], start["run"]) == ("START", began.isoformat(), end["run"])
    assert [each["name"] for each in end["inputs"]] == ["ann/raw", "https://example.org/raw"]
    [output] = end["outputs"]
    for name, facet in (output["facets"] | output["outputFacets"] | end["job"]["facets"]).items():
        assert facet["_producer"].startswith("urn:")
        [kept] = in_their_words({name: facet}).values()
        assert facet["_schemaURL"] == kept._get_schema()
    assert start["schemaURL"] == end["schemaURL"] == RunEvent._get_schema()
    assert events(ENTRY, began, "lab", {"u1": FORMER}.get) == made


def theirs(made):
    """The same event, made by OpenLineage's own client."""
    return RunEvent(
        eventType=RunState(made["eventType"]),
        eventTime=made["eventTime"],
        run=Run(runId=made["run"]["runId"]),
        job=Job("lab", made["job"]["name"], facets=in_their_words(made["job"]["facets"])),
        producer=made["producer"],
        inputs=[
            InputDataset(each["namespace"], each["name"], facets=in_their_words(each.get("facets", {})))
            for each in made["inputs"]
        ],
        outputs=[
            OutputDataset(
                "lab",
                output["name"],
                facets=in_their_words(output["facets"]),
                outputFacets=in_their_words(output["outputFacets"]),
            )
            for output in made["outputs"]
        ],
    )


def test_croissant_is_what_mlcroissant_accepted():
    """The document is, but for its context, the one that `scripts/check-croissant` has mlcroissant read."""
    made = croissant(ENTRY, "https://uploads.example.org/files/")
    context = made.pop("@context")
    assert context["cr"] == "http://mlcommons.org/croissant/"
    assert made["recordSet"].pop()["field"] == [
        field("id", "sc:Integer", "id"),
        {
            "@type": "cr:Field",
            "@id": "rows/messages",
            "name": "messages",
            "description": "conversation",
            "repeated": True,
            "subField": [
                {
                    "@type": "cr:Field",
                    "@id": "rows/messages/role",
                    "name": "role",
                    "dataType": "sc:Text",
                    "source": {
                        "fileObject": {"@id": "file"},
                        "extract": {"column": "messages"},
                        "transform": {"jsonPath": "role"},
                    },
                }
            ],
        },
        field("tags", "sc:Text", None, repeated=True),
        field("page url", "sc:URL", "url", at="page%20url"),
        field("messages/role", "sc:Text", None, at="messages%2Frole"),
    ]
    assert made == {
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "chat",
        "description": "Small talk.",
        "url": "https://uploads.example.org/files/u2",
        "version": "3.0.0",
        "datePublished": "2026-11-22T16:00:00+00:00",
        "license": "CC0-1.0",
        "creator": {"@type": "sc:Person", "name": "ann"},
        "keywords": ["en"],
        "isBasedOn": ["u1", "https://example.org/raw"],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "file",
                "name": "chat.jsonl",
                "contentUrl": "https://uploads.example.org/files/u2",
                "contentSize": "120 B",
                "encodingFormat": "application/jsonlines",
                "sha256": "a" * 64,
            }
        ],
        "recordSet": [],
    }


def field(name, kind, description, *, at=None, repeated=False):
    made = {
        "@type": "cr:Field",
        "@id": f"rows/{at or name}",
        "name": name,
        "dataType": kind,
        "source": {"fileObject": {"@id": "file"}, "extract": {"column": name}},
    }
    return made | ({"description": description} if description else {}) | ({"repeated": True} if repeated else {})
