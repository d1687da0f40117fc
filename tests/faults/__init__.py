"""The fault harness: a real node is sent studies while all of it is killed, then Orthanc is asked."""
