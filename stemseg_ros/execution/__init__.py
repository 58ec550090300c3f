"""Execution of models: engines, devices, batching across streams."""
