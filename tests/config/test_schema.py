"""The schema for editors holds every setting, and says of each what the loader accepts."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path

from distcls.config.durations import parse_duration
from distcls.config.schema import LIMIT_KEYWORDS, json_schema
from distcls.config.settings import Config, setting

SCHEMA = Path(__file__).parents[2] / "configs" / "schema.json"


def leaves(schema: dict, path: str = "") -> dict[str, dict]:
    """The schema of each setting, by dotted path."""
    section = schema.get("anyOf", [schema])[0]
    if "properties" not in section or "default" in section:  # a section that is off by default is one setting
        return {path: schema}
    schema = section
    assert schema["additionalProperties"] is False
    return {
        key: leaf
        for name, child in schema["properties"].items()
        for key, leaf in leaves(child, f"{path}.{name}" if path else name).items()
    }


def test_schema_holds_every_setting_with_description_default_and_range() -> None:
    schema = leaves(json_schema())
    values = dataclasses.asdict(Config())
    plain = {"preset": values.pop("preset")}
    plain |= {path: value for section, part in values.items() for path, value in flat(part, section)}
    assert {path: leaf["default"] for path, leaf in schema.items()} == plain
    assert all(leaf["description"] for leaf in schema.values())
    assert schema["optim.momentum"] | {"description": ""} == {
        **{"description": "", "type": "number", "default": 0.9},
        **{"minimum": 0, "exclusiveMaximum": 1},
    }
    assert schema["optim.lr"]["exclusiveMinimum"] == 0
    assert schema["train.micro_batch_size"]["type"] == ["integer", "null"]
    assert schema["optim.schedule"]["enum"] == ["constant", "cosine", "linear", "one_cycle", "step", "range_test"]
    assert re.search(schema["train.eval_every"]["pattern"], "1 epoch")
    assert schema["optim.groups"]["items"]["additionalProperties"] is False
    assert {"enum": ["none"]} in json_schema()["properties"]["augment"]["anyOf"]


def flat(part: dict, path: str) -> list[tuple[str, object]]:
    pairs = []
    for key, value in part.items():
        inside = isinstance(value, dict) and key != "args"
        pairs.extend(flat(value, f"{path}.{key}") if inside else [(f"{path}.{key}", value)])
    return pairs


def test_every_duration_of_the_defaults_is_valid() -> None:
    for leaf in leaves(json_schema()).values():
        if "pattern" in leaf:
            parse_duration(leaf["default"])


def test_every_limit_of_a_setting_has_a_keyword() -> None:
    limits = set(inspect.signature(setting).parameters) - {"default", "doc", "duration", "changes_run"}
    assert set(LIMIT_KEYWORDS) == limits


def test_the_schema_in_configs_is_up_to_date() -> None:
    stored = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert stored == json_schema(), "run: distcls config schema -o configs/schema.json"
