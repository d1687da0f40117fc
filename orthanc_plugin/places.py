"""Where a node keeps what it writes: every file and folder in its home, by what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """The files and folders of a node.

    Parameters
    ----------
    home
        The folder in which all of them lie.
    """

    home: Path

    @property
    def ledger(self) -> Path:
        """The SQLite file of tasks and reading marks."""
        return self.home / "ledger.sqlite"

    @property
    def archive_id_file(self) -> Path:
        """The file with the random name of this archive, made at the first start: a ledger belongs to one archive."""
        return self.home / "archive-id"

    @property
    def storage(self) -> Path:
        """Folder of Orthanc's images and index."""
        return self.home / "orthanc"

    @property
    def credentials(self) -> Path:
        """The file of user names and passwords, readable by its owner alone."""
        return self.home / "credentials.json"

    @property
    def deidentification_key(self) -> Path:
        """The key from which pseudonyms follow (``commands.deidentify``), readable by its owner alone."""
        return self.home / "deidentification.key"

    @property
    def users(self) -> Path:
        """The file of people's accounts: names, roles and hashes of passwords."""
        return self.home / "users.json"

    @property
    def sessions(self) -> Path:
        """The SQLite file of who is logged in."""
        return self.home / "sessions.sqlite"

    @property
    def audit(self) -> Path:
        """Folder of the audit log."""
        return self.home / "audit"

    @property
    def notifications(self) -> Path:
        """The file that says whom to tell of critical results (``working.notice_settings``); it may hold passwords."""
        return self.home / "notifications.toml"

    @property
    def outbox(self) -> Path:
        """The SQLite file of who was told of what."""
        return self.home / "outbox.sqlite"

    @property
    def tls(self) -> Path:
        """Folder of certificates and their keys (``trust``)."""
        return self.home / "tls"

    @property
    def entrance(self) -> Path:
        """Folder of the nginx that offers HTTPS."""
        return self.home / "entrance"

    @property
    def refused_calls(self) -> Path:
        """The file that says how many DICOM associations were refused."""
        return self.home / "refused-calls.json"

    @property
    def cluster_file(self) -> Path:
        """The file that says that this node is a cluster of this machine, and of what (``commands.cluster``)."""
        return self.home / "cluster.toml"

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.home / "log"

    @property
    def own_models(self) -> Path:
        """Folder of the site's own bundles, and of what is known of them (``models.registry``)."""
        return self.home / "models"

    @property
    def active_models(self) -> Path:
        """The file that says which versions are active, where that is not what Hilum ships (``models.activation``)."""
        return self.own_models / "active.json"

    @property
    def shadow_records(self) -> Path:
        """Folder of what bundles said in shadow."""
        return self.home / "shadow"
