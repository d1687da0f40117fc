"""What somebody is told in place of what they asked for: people by a page, programs in a line of text.

The rule: it says what happened and what to do, and names no patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from orthanc_plugin.hosting.messages import HTML, NOT_STORED, PAGE_HEADERS, TEXT, Request, Response
from orthanc_plugin.hosting.reading_page import look_of
from orthanc_plugin.worklist.page import render_message


def told(request: Request, status: int, what: str, *then: str, problems: Sequence[Mapping[str, Any]] = ()) -> Response:
    """Answer with what happened and what to do.

    Parameters
    ----------
    then
        Sentences that follow.
    problems
        Of the node, as ``GET /hilum/api/status`` gives them.
    """
    if "text/html" not in request.headers.get("accept", ""):
        return Response(status, TEXT, f"{' '.join([what, *then])}\n".encode(), NOT_STORED)
    again = quote(request.path) if status >= 500 else ""
    page = render_message(what, then, problems, again=again, look=look_of(request))
    return Response(status, HTML, page.encode(), dict(PAGE_HEADERS))
