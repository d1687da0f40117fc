"""The node: Orthanc's plugin, the ledger of inference tasks, the worker and the command line."""

__version__ = "0.1.0"
