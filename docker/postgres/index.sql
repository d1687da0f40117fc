-- Orthanc's index, beside the ledger; the image's own script has made the ledger's database.
CREATE DATABASE index;
