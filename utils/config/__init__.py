"""Configuration: the schema, and reading it from YAML."""

from utils.config.loading import CONFIG_FOLDER, find_config, load_config, parse_config
from utils.config.schema import Config, Section

__all__ = ["CONFIG_FOLDER", "Config", "Section", "find_config", "load_config", "parse_config"]
