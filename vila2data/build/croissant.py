"""Croissant metadata with the files' hashes, written by the build so that nothing has to be guessed
later.

Source: Croissant format specification 1.0.
"""

import json
from typing import Any

from datasets import Image, List, Value

from vila2data.schema import features_of

from .manifest import Manifest

_TYPES = {
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "int32": "sc:Integer",
    "int64": "sc:Integer",
    "float32": "sc:Float",
    "float64": "sc:Float",
}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant_of(manifest: Manifest) -> str:
    """The text of ``croissant.json``: a file object per parquet file, a record set per config."""
    files = [
        {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": f"{file.bytes} B",
            "encodingFormat": "application/x-parquet",
            "sha256": file.sha256,
        }
        for file in manifest.files
    ]
    content = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.data_set,
        "version": manifest.version,
        "description": f"{manifest.data_set} {manifest.version}, built by vila2data",
        "license": manifest.license,
        "url": f"https://huggingface.co/datasets/{manifest.data_set}",
        "distribution": files,
        "recordSet": [_record_set(manifest, config) for config in manifest.configs],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _record_set(manifest: Manifest, config: str) -> dict[str, Any]:
    features = features_of(manifest.data_set, config)[0]
    first = manifest.files_of(config)[0].path
    return {
        "@type": "cr:RecordSet",
        "@id": config,
        "name": config,
        "field": [_field(config, first, name, kind) for name, kind in features.items()],
    }


def _field(config: str, file: str, name: str, kind: Any) -> dict[str, Any]:
    repeated = isinstance(kind, List)
    inner = kind.feature if repeated else kind
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{config}/{name}",
        "name": name,
        "dataType": _data_type(inner),
        "source": {"fileObject": {"@id": file}, "extract": {"column": name}},
    }
    if repeated:
        field["repeated"] = True
    return field


def _data_type(kind: Any) -> str:
    """Structures and nested lists are given as JSON text: Croissant 1.0 has no type for them."""
    if isinstance(kind, Image):
        return "sc:ImageObject"
    return _TYPES.get(kind.dtype, "sc:Text") if isinstance(kind, Value) else "sc:Text"
