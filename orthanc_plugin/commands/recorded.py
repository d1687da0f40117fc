"""What is done by the command line, in the audit log: who did it is the user of this machine."""

from __future__ import annotations

import os
import pwd

from orthanc_plugin.access.audit import Audit, Who
from orthanc_plugin.settings import Settings

_SECONDS = 5.0


def record(settings: Settings, action: str, study_instance_uid: str = "", *, detail: str = "") -> bool:
    """Write an entry; False when the log does not take it."""
    audit = Audit(settings.audit, longest=settings.audit_mb * 1_000_000)
    audit.start()
    who = Who(_user_of_machine(), "", "command line")
    written = audit.record(action, who, study_instance_uid, detail=detail, wait_seconds=_SECONDS)
    audit.stop()
    return written


def _user_of_machine() -> str:
    try:
        return f"{pwd.getpwuid(os.getuid()).pw_name} of this machine"
    except KeyError:
        return f"user {os.getuid()} of this machine"
