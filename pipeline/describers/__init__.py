"""Who words an event: ``model.llm.describer`` picks one of `DESCRIBERS`."""

from __future__ import annotations

from utils.registry import Registry

DESCRIBERS = Registry("describer", {"template": "pipeline.describers.template:TemplateDescriber"})
