"""What runs inside the Orthanc process: the answers to requests, the record of what arrives, and how the node is.

The rule: no model library, no wait for the worker, and nothing that could cost Orthanc an image.
"""
