"""The models by name. A model is a package; adding one is one line here."""

MODELS = {
    "stemseg": "stemseg_ros.models.stemseg",
    "stc": "stemseg_ros.models.stc",
    "hodor": "stemseg_ros.models.hodor",
}
"""Package of each model. It offers ``settings.Settings``, and what ``registry.py`` lists."""
