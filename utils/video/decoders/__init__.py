"""The decoders: one file each, one line each."""

from utils.registry import Registry

DECODERS = Registry("decoder", {"pyav": "utils.video.decoders.pyav:PyAvSource"})
