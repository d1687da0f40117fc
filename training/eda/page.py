"""The page: everything about a data set in one HTML file.

The rule: every text from the data set is escaped, and nothing is loaded from anywhere else.
"""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from training.eda.files import Unread
from training.eda.sections import Options, sections
from training.eda.statistics import keys_of
from training.readers.records import DataSet

NOTICE = "Research software, not a medical device."


def render(data: DataSet, options: Options, unread: Unread) -> str:
    """Make the page of a data set; files that cannot be read are added to `unread`."""
    environment = Environment(
        loader=PackageLoader("training.eda", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    keys = keys_of(data)
    told = sections(data, keys, options, unread)
    totals = {
        "images": len(data.records),
        "patients": len({record.patient for record in data.records}),
        "studies": len({record.study for record in data.records}),
        "findings": len(keys),
        "rows left out": len(data.left_out),
        "files not read": len(unread),
    }
    page = environment.get_template("page.html")
    return page.render(name=data.name, notice=NOTICE, totals=totals, sections=told)
