"""What a process that reads studies has in memory: models, wording and the worker's account; and what reads with them.

The rule: it is loaded once, and threads that read at the same time share it; each has an intake process and a
connection to Orthanc of its own.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from dicom_sr.report.wording import Wording, WordingInvalid, load_wording
from models.bundle import BundleInvalid
from models.inference import Models
from orthanc_plugin.archive.client import OrthancClient, OrthancFailed, OrthancUnavailable, StorageFull
from orthanc_plugin.credentials import WorkerAccount, load_worker_account
from orthanc_plugin.free_space import FreeSpace
from orthanc_plugin.ledger.flagging import Flag
from orthanc_plugin.ledger.tasks import InferenceTask, Outcome
from orthanc_plugin.reading.active_models import load_active, load_shadows
from orthanc_plugin.reading.intake_process import IntakeProcess, IsolationFailed
from orthanc_plugin.reading.publishing import ResultWorse
from orthanc_plugin.reading.shadow import Shadows
from orthanc_plugin.reading.study import Reader, process_study
from orthanc_plugin.settings import Settings, SettingsInvalid
from orthanc_plugin.trust import TlsUnusable, http_trust

Read = Callable[[InferenceTask, Callable[[Flag], None]], Outcome]

# What `Equipment.load` raises when it cannot be used; the message is for people.
UNUSABLE = (BundleInvalid, WordingInvalid, SettingsInvalid, TlsUnusable, OSError)
# What a reading may raise, with reason and message of the failure that it is.
_EXPECTED: dict[type[Exception], tuple[str, str]] = {
    StorageFull: ("storage_full", "Orthanc cannot write results"),
    OrthancUnavailable: ("orthanc_unavailable", "Orthanc did not answer"),
    OrthancFailed: ("orthanc_error", "Orthanc failed at a request; a file of the study may be damaged"),
    IsolationFailed: ("intake_unavailable", "images could not be taken in: no process for it"),
    ResultWorse: ("result_worse", "a model failed on an image that it read before; the earlier result stands"),
}


@dataclass(frozen=True)
class Equipment:
    """Everything that is loaded once; `load` it."""

    settings: Settings
    models: Models
    wording: Wording
    account: WorkerAccount
    shadows: Shadows
    trust: ssl.SSLContext | bool
    expected: Mapping[type[Exception], tuple[str, str]] = field(default_factory=lambda: _EXPECTED)

    @classmethod
    def load(
        cls, settings: Settings, studies: int = 1, apart: Callable[[Callable[[], object]], None] | None = None
    ) -> Equipment:
        """Load what the site has chosen, and run each network once.

        Parameters
        ----------
        studies
            How many threads will read with it at the same time.
        apart
            See `models.runtime.Running`.

        Raises
        ------
        BundleInvalid, WordingInvalid, SettingsInvalid, TlsUnusable, OSError
            See `UNUSABLE`.
        """
        models = load_active(settings, studies, apart)
        wording = load_wording(settings.report_language, settings.site_wording)
        account = load_worker_account(settings.credentials)
        trust = http_trust(settings, settings.orthanc_address)
        shadows = load_shadows(settings)
        models.warm_up()
        return cls(settings, models, wording, account, shadows, trust)

    @staticmethod
    def start_intake(settings: Settings) -> IntakeProcess:
        """An intake process that is starting; it ends with this thread."""
        intake = IntakeProcess(settings.intake_seconds)
        intake.launch()
        return intake

    @property
    def versions(self) -> dict[str, str]:
        """Of the models: name to version."""
        return self.models.versions

    def idle(self) -> bool:
        """Run the shadows on one image that waits for them; False when none does. By one thread at a time."""
        return self.shadows.work()

    @contextmanager
    def reading(self, intake: IntakeProcess | None = None) -> Iterator[Read]:
        """What reads a study, for one thread.

        Parameters
        ----------
        intake
            Of this thread; without it one is started.
        """
        settings, account = self.settings, self.account
        with (
            OrthancClient(settings.orthanc_address, account.user, account.password, trust=self.trust) as orthanc,
            intake or self.start_intake(settings) as taking,
        ):
            reader = Reader(settings, orthanc, self.models, taking, self.wording, self.shadows)
            # the disk of an Orthanc elsewhere is not to be seen from here
            space = FreeSpace([f for f in (settings.storage, settings.home) if f.is_dir()], settings.reserve_mb)

            def read(task: InferenceTask, tell: Callable[[Flag], None]) -> Outcome:
                try:
                    return process_study(task, reader, tell)
                except OrthancFailed as error:
                    if space.free_mb() < 1:
                        raise StorageFull(f"{error}, and its disk cannot be written to") from error
                    raise

            yield read
