"""The part of Orthanc's configuration that says who may speak DICOM with it: port, TLS, AE titles.

The rule: what Orthanc bounds by itself, and what it does not, is measured in docs/security.md.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from orthanc_plugin.credentials import load_credentials
from orthanc_plugin.integration import Destination
from orthanc_plugin.setting_values import parse_modality
from orthanc_plugin.settings import Settings
from orthanc_plugin.trust import TlsFiles

ANYBODYS_AE_TITLE = "HILUM_MODALITY"  # the node's own programs, where everybody may call
# without it Orthanc 1.10.1 takes TLS 1.0
OPENSSL_CONF = Path(__file__).with_name("openssl.cnf")
_OWN = "Hilum-itself"
_THREADS = 16  # associations that are served at a time; each that is idle has one
_TLS_1_2 = 4  # as Orthanc numbers them


def own_ae_title(settings: Settings) -> str:
    """By which AE title the node's own programs call it.

    Where `modalities` names who may, theirs is one that nobody can guess, for an AE title is all that is asked of them.
    """
    if not settings.modalities:
        return ANYBODYS_AE_TITLE
    secret = load_credentials(settings.credentials).worker_password
    digest = hashlib.sha256(f"AE title\0{secret}".encode()).digest()
    return f"HILUM-{base64.b32encode(digest).decode()[:10]}"


def dicom_door(settings: Settings) -> dict[str, Any]:
    """The DICOM port, who may use it, and by what."""
    files, listed = TlsFiles(settings.tls), bool(settings.modalities)
    tls: dict[str, Any] = {}
    if settings.dicom_tls != "off":
        tls = {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(files.certificate),
            "DicomTlsPrivateKey": str(files.key),
            "DicomTlsTrustedCertificates": str(files.authority if files.authority.is_file() else files.certificate),
            "DicomTlsRemoteCertificateRequired": settings.dicom_tls == "mutual",
            "DicomTlsMinimumProtocolVersion": _TLS_1_2,  # since 1.12.4; before it `OPENSSL_CONF` says so
        }
    return {
        "DicomPort": settings.dicom_port,
        "DicomAet": settings.ae_title,
        "DicomCheckCalledAet": settings.check_called_ae,
        "DicomCheckModalityHost": listed and settings.check_modality_host,
        "DicomAlwaysAllowStore": not listed,
        "DicomAlwaysAllowEcho": not listed,
        "DicomModalities": _neighbours(settings),
        # Orthanc unpacks it before anybody is asked: 2 MB became 6 GB. Whoever proposes it proposes another one too
        "DeflatedTransferSyntaxAccepted": False,
        "DicomThreadsCount": _THREADS,
        **tls,
    }


def _neighbours(settings: Settings) -> dict[str, Any]:
    """Everybody whom Orthanc has to know, each AE title once; no destination can have the names of the others."""
    neighbours = {one.name: _committing(one) for one in settings.destinations if one.commitment}
    names = {neighbour["AET"].upper(): name for name, neighbour in neighbours.items()}
    for number, entry in enumerate(settings.modalities, 1):
        modality = parse_modality(entry)
        allowed: dict[str, Any] = {
            "AET": modality.ae_title,
            "Host": modality.host,
            "Port": modality.port,
            "UseDicomTls": modality.tls,
        }
        if (name := names.get(modality.ae_title.upper())) is not None:  # it may do both, and is called as destination
            neighbours[name] = allowed | {key: neighbours[name][key] for key in (*allowed, "AllowNEventReport")}
        else:
            neighbours[f"Modality-{number}"] = allowed  # Orthanc takes letters, digits and dashes
    if settings.modalities:
        own = {"AET": own_ae_title(settings), "Host": "127.0.0.1", "Port": settings.dicom_port}
        neighbours[_OWN] = {**own, "AllowFind": False, "AllowMove": False, "AllowGet": False}
    return neighbours


def _committing(destination: Destination) -> dict[str, Any]:
    """A destination as Orthanc has to know it: it is asked to commit, may report that, and nothing else."""
    forbidden = ("AllowStore", "AllowFind", "AllowFindWorklist", "AllowGet", "AllowMove", "AllowNAction")
    return {
        "AET": destination.ae_title,
        "Host": destination.host,
        "Port": destination.port,
        "AllowNEventReport": True,
        "UseDicomTls": destination.tls,
        **dict.fromkeys(forbidden, False),
    }
