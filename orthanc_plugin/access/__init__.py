"""Who may do what, and who did: accounts, passwords, sessions, roles and the audit log.

Nothing here knows Orthanc or HTTP; ``hosting.guard`` asks it about each request.
"""
