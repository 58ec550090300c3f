"""The models by name. A model is a package; adding one is one line here."""

MODELS = {
    "stemseg": "stemseg_ros.models.stemseg",
}
"""Package of each model. It offers ``settings.Settings``, and what ``registry.py`` lists."""
