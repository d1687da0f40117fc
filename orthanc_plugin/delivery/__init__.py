"""Giving results to others: PACS, HL7 receivers, and labels in our own Orthanc.

The rule: what is owed stands in the ledger (``ledger.deliveries``); a receiver that is away delays nobody else.
"""
