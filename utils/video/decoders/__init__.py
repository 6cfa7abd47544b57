"""The decoders: one file each, one line each."""

from utils.registry import Registry

DECODERS = Registry(
    "decoder",
    {
        "decord": "utils.video.decoders.decord:DecordSource",
        "pyav": "utils.video.decoders.pyav:PyAvSource",
        "pyav_isolated": "utils.video.decoders.isolated:IsolatedPyAvSource",
        "torchcodec": "utils.video.decoders.torchcodec:TorchcodecSource",
    },
    requires={"decord": "decord", "torchcodec": "torchcodec"},
)
