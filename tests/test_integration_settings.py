"""The tables of hilum.toml: what is allowed, which line is wrong, and that the documentation shows every key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orthanc_plugin import cli
from orthanc_plugin.commands.node import orthanc_configuration
from orthanc_plugin.integration import TABLES, in_words, line_of
from orthanc_plugin.settings import REPOSITORY, SettingsInvalid, load_settings

PACS = '[[destinations]]\nname = "pacs"\nprotocol = "dicom"\nhost = "h"\nport = 104\nae_title = "PACS"\n'
WEB = '[[destinations]]\nname = "web"\nprotocol = "stow"\nurl = "https://h/dicom-web"\n'
RIS = '[[destinations]]\nname = "ris"\nprotocol = "hl7"\nhost = "h"\nport = 2575\n'
ROUTE = '[[routes]]\nname = "abdomen"\nbundles = []\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("HILUM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HILUM_HOME", str(tmp_path))
    return tmp_path


def test_without_tables_nothing_is_given_routed_labelled_or_deleted(home: Path) -> None:
    settings = load_settings()
    assert (settings.owed_to, settings.routes, settings.labels, settings.retention) == ((), (), None, None)


def test_what_is_set_is_used_and_the_rest_has_its_default(home: Path) -> None:
    more = 'commitment = true\npriorities = ["critical"]\n'
    tables = PACS + more + WEB + RIS + ROUTE + '[labels]\nrefused = ""\n[retention]\ndays = 30\ncommitted_by = "pacs"\n'
    (home / "hilum.toml").write_text(tables)
    settings = load_settings()
    assert [one.name for one in settings.owed_to] == ["pacs", "web", "ris", "labels"]
    pacs = settings.destinations[0]
    assert (pacs.port, pacs.ae_title, pacs.commitment, pacs.priorities) == (104, "PACS", True, ("critical",))
    assert (settings.destinations[1].priorities, settings.destinations[2].character_set) == (
        ("critical", "urgent", "routine", "none"), "UNICODE UTF-8",
    )  # fmt: skip
    assert (settings.routes[0].bundles, settings.routes[0].body_part) == ((), ())
    assert settings.labels is not None
    assert settings.labels.all == ("ai-critical", "ai-urgent", "ai-read")
    assert settings.retention is not None
    assert (settings.retention.days, settings.retention.unread) == (30, False)
    known = orthanc_configuration(settings)["DicomModalities"]
    assert set(known) == {"pacs"}, "Orthanc knows whom it asks to commit, and nobody else"
    assert (known["pacs"]["AET"], known["pacs"]["AllowNEventReport"], known["pacs"]["AllowMove"]) == (
        "PACS", True, False,
    )  # fmt: skip


def test_a_destination_that_commits_is_known_beside_the_modalities_and_each_ae_title_once(home: Path) -> None:
    both = 'modalities = ["CR1@10.1.2.3:104", "pacs@10.1.2.4:105"]\n'
    (home / "hilum.toml").write_text(both + PACS + "commitment = true\n")
    known = orthanc_configuration(load_settings())["DicomModalities"]
    assert sorted(one["AET"].upper() for one in known.values() if not one["AET"].startswith("HILUM-")) == [
        "CR1",
        "PACS",
    ]
    assert (known["pacs"]["Port"], known["pacs"]["AllowNEventReport"]) == (104, True), "it is asked where it takes"
    assert "AllowFind" not in known["pacs"], "and finds, as a modality may"
    (home / "hilum.toml").write_text('modalities = ["CR1@10.1.2.3:104"]\n' + PACS + "commitment = true\n")
    known = orthanc_configuration(load_settings())["DicomModalities"]
    assert (known["pacs"]["AllowStore"], known["pacs"]["AllowFind"]) == (False, False), "it may report, and no more"


WRONG = [
    (PACS.replace("port = 104", "port = 99999"), 5, "give a number from 1 to 65535"),
    (PACS.replace("port = 104", 'port = "104"'), 5, "give a whole number"),
    (PACS + "comitment = true\n", 7, "unknown key 'comitment'; known are name, protocol"),
    (PACS.replace('"dicom"', '"dimse"'), 3, "give one of dicom, stow, hl7"),
    (PACS.replace('host = "h"\n', ""), 1, "host"),
    (PACS.replace('"PACS"', '"SEVENTEEN LETTERS"'), 6, "1 to 16 ASCII characters"),
    (PACS + PACS, 8, "there is one of this name already"),
    (PACS.replace('"pacs"', '"Our PACS"'), 2, "characters of a to z"),
    (PACS.replace('"pacs"', '"labels"'), 2, "this one is taken"),
    (PACS + 'objects = ["pdf"]\n', 7, "'pdf' is none; known are measurement_report"),
    (PACS + 'objects = "segmentation"\n', 7, "give a list of texts"),
    (PACS + "priorities = []\n", 7, "lets nothing through"),
    (WEB + "commitment = true\n", 5, "only a destination of the protocol dicom"),
    (WEB.replace("https://h", "https://me:s3cret@h"), 4, "without a password in it"),
    (WEB + 'user = "me"\n', 5, "belong together"),
    (RIS + 'character_set = "EBCDIC"\n', 6, "give one of UNICODE UTF-8"),
    (PACS + "\n" + ROUTE.replace("[]", '["lung_felds"]'), 10, "there is no bundle 'lung_felds'"),
    (ROUTE + "study_description = 3\n", 4, "give a list of texts"),
    (ROUTE.replace("bundles = []\n", ""), 1, "bundles is missing"),
    ('[labels]\nurgent = "AI urgent!"\n', 2, "1 to 64 characters"),
    ('[labels]\ncritcal = "x"\n', 2, "unknown key 'critcal'"),
    (PACS + '[retention]\ndays = 30\ncommitted_by = "pacs"\n', 9, "name a destination that has commitment = true"),
    ("[collector]\nport = 6514\n", 1, "host is missing"),
    ('[collector]\nhost = "h"\ntransport = "http"\n', 3, "give one of tls, tcp, udp"),
    ('[collector]\nhost = "h"\ntransport = "tcp"\nauthority_file = "/ca"\n', 3, "certificates are for tls alone"),
    ('[collector]\nhost = "h"\ncertificate_file = "/c"\n', 3, "belong together"),
    (PACS + 'commitment = true\n[retention]\ndays = 0\ncommitted_by = "pacs"\n', 9, "from 1 to 36500"),
]


@pytest.mark.parametrize(("tables", "line", "said"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_a_mistake_stops_the_start_and_is_named_with_its_line(
    home: Path, capsys: pytest.CaptureFixture[str], tables: str, line: int, said: str
) -> None:
    (home / "hilum.toml").write_text(tables)
    with pytest.raises(SettingsInvalid) as refused:
        load_settings()
    for told in (str(refused.value), capsys.readouterr().err if cli.main(["config", "check"]) == 1 else ""):
        assert f"hilum.toml, line {line}: " in told
        assert said in told
        assert "s3cret" not in told


@pytest.mark.parametrize("name", TABLES)
def test_a_table_by_another_name_or_kind_is_refused(home: Path, name: str) -> None:
    for written in (f"{name} = 3\n", f"{name} = [1]\n", f"[{name}]\nnonsense = 1\n"):
        (home / "hilum.toml").write_text(written)
        with pytest.raises(SettingsInvalid, match=name):
            load_settings()


def test_all_mistakes_of_all_tables_are_told_at_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = ROUTE.replace("[]", '["nowhere"]') + '[labels]\nred = "x"\n' + PACS.replace("104", "0")
    (home / "hilum.toml").write_text(tables)
    assert cli.main(["config", "check"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in said] == [f"hilum.toml, line {n}" for n in (3, 5, 10)]


def test_the_line_of_a_key_is_that_of_its_own_table() -> None:
    text = """port = 1
[[destinations]]
name = "a"
objects = [
  "segmentation",
]
port = 2
[x]
port = 3
[[destinations]]
 "port" = 4
"""
    assert [line_of(text, "destinations", number, "port") for number in (0, 1)] == [7, 11]
    assert (line_of(text, "destinations", 1), line_of(text, "destinations", 0, "none")) == (10, 2)
    assert line_of(text, "y") is None


@pytest.mark.parametrize("table", TABLES)
def test_every_key_stands_in_the_documentation_with_its_default(table: str) -> None:
    rows = (REPOSITORY / "docs" / "integration.md").read_text("utf-8").splitlines()
    assert set(in_words(table)) <= set(rows)
    heading = next(place for place, row in enumerate(rows) if row.lower() == f"## {table}")
    keys = []
    for row in rows[heading + 1 :]:
        if row.startswith("## "):
            break
        keys += [row] if row.startswith("| `") else []
    assert keys == list(in_words(table)), "and no other"


def test_the_example_of_the_documentation_is_one(home: Path) -> None:
    text = (REPOSITORY / "docs" / "integration.md").read_text("utf-8")
    (home / "hilum.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    settings = load_settings()
    assert [one.name for one in settings.owed_to] == ["pacs", "research", "ris", "labels"]
