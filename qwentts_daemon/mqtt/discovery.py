"""The discovery message by which Home Assistant shows this daemon as a device with entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import __version__
from .messages import Topics

EVENT_TYPES = ("queued", "started", "first_audio", "finished", "cancelled", "failed")
STATES = ("loading", "idle", "speaking", "failed")
BUTTONS = {
    "stop": ("Stop", "mdi:stop", None),
    "clear": ("Clear queue", "mdi:playlist-remove", None),
    "reload": ("Reload", "mdi:refresh", "config"),
    "unload": ("Unload model", "mdi:eject", "config"),
}
Entity = dict[str, Any]


def discovery_topic(prefix: str, node: str) -> str:
    """Return the topic of the discovery message."""
    return f"{prefix}/device/qwentts_{node}/config"


def device_message(
    node: str, topics: Topics, buttons: Sequence[str], options: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return a device-based discovery message (Home Assistant 2024.11 and later)."""
    entities = _speaking(topics) | _buttons(topics, buttons) | _preferences(topics, options) | _figures(topics)
    return {
        "device": {
            "identifiers": [f"qwentts_{node}"],
            "name": f"Qwen TTS {node}",
            "manufacturer": "qwentts-daemon",
            "model": "Text to speech",
            "sw_version": __version__,
        },
        "origin": {"name": "qwentts-daemon", "sw_version": __version__},
        "availability_topic": topics.status,
        "qos": 1,
        "components": {key: {"unique_id": f"qwentts_{node}_{key}", **entity} for key, entity in entities.items()},
    }


def _speaking(topics: Topics) -> dict[str, Entity]:
    return {
        "announce": {
            "platform": "notify",
            "name": "Announce",
            "icon": "mdi:bullhorn",
            "command_topic": topics.say,
            "command_template": '{"text": {{ value | tojson }}}',
        },
        "event": {
            "platform": "event",
            "name": "Announcement",
            "icon": "mdi:bullhorn-variant",
            "state_topic": topics.event,
            "event_types": list(EVENT_TYPES),
        },
    }


def _buttons(topics: Topics, names: Sequence[str]) -> dict[str, Entity]:
    entities: dict[str, Entity] = {}
    for name in names:
        label, icon, category = BUTTONS[name]
        entities[name] = {"platform": "button", "name": label, "icon": icon, "command_topic": topics.button(name)}
        if category:
            entities[name]["entity_category"] = category
    return entities


def _preferences(topics: Topics, options: Mapping[str, Sequence[str]]) -> dict[str, Entity]:
    shared = {"entity_category": "config", "state_topic": topics.settings}
    icons = {"voice": "mdi:account-voice", "language": "mdi:translate", "style": "mdi:drama-masks"}
    selects: dict[str, Entity] = {
        name: {
            "platform": "select",
            "name": name.capitalize(),
            "icon": icons[name],
            "command_topic": topics.setting(name),
            "value_template": f"{{{{ value_json.{name} }}}}",
            "options": list(values),
            **shared,
        }
        for name, values in options.items()
    }
    volume = {
        "platform": "number",
        "name": "Volume",
        "icon": "mdi:volume-high",
        "command_topic": topics.setting("volume"),
        "value_template": "{{ value_json.volume }}",
        "min": 0,
        "max": 100,
        "step": 1,
        "unit_of_measurement": "%",
        **shared,
    }
    return selects | {"volume": volume}


def _figures(topics: Topics) -> dict[str, Entity]:
    figure = {"platform": "sensor", "entity_category": "diagnostic", "state_topic": topics.state}
    measured = figure | {"state_class": "measurement"}
    return {
        "state": figure
        | {
            "name": "State",
            "icon": "mdi:text-to-speech",
            "device_class": "enum",
            "options": list(STATES),
            "value_template": "{{ value_json.state }}",
        },
        "queue_depth": measured
        | {"name": "Queue", "icon": "mdi:tray-full", "value_template": "{{ value_json.queue_depth }}"},
        "ttfa": measured
        | {
            "name": "Time to first audio",
            "device_class": "duration",
            "unit_of_measurement": "ms",
            "suggested_display_precision": 0,
            "value_template": "{{ value_json.ttfa_ms }}",
        },
        "rtf": measured
        | {
            "name": "Real-time factor",
            "icon": "mdi:speedometer",
            "suggested_display_precision": 3,
            "value_template": "{{ value_json.rtf }}",
        },
        "gpu_memory": measured
        | {
            "name": "GPU memory",
            "device_class": "data_size",
            "unit_of_measurement": "MB",
            "suggested_display_precision": 0,
            "value_template": "{{ value_json.gpu_memory_mb }}",
        },
        "model_loaded": {
            "platform": "binary_sensor",
            "name": "Model loaded",
            "device_class": "running",
            "entity_category": "diagnostic",
            "state_topic": topics.state,
            "value_template": "{{ 'ON' if value_json.model_loaded else 'OFF' }}",
        },
    }
