"""From run records to tables and figures. Reads records alone: no model, no torch, no network."""

from analysis.load import Study, load

__all__ = ["Study", "load"]
