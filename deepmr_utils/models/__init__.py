"""Networks: our own definitions, and readers of published weights."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "bpnet": "BPNet load_bpnet_oskn",
        "deepsea": "Beluga DeepSEA load_beluga load_deepsea",
        "downloads": "fetch",
        "mtsplice": "MTSplice load_mtsplice",
    },
)
