-- A ledger of schema 1 as the first version of Hilum wrote it, with a study in every state.
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE tasks (
    study_instance_uid  TEXT PRIMARY KEY,
    status              TEXT NOT NULL,
    generation          INTEGER NOT NULL,            -- instances announced so far
    claimed_generation  INTEGER NOT NULL DEFAULT 0,  -- what the current claim has seen
    fence               INTEGER NOT NULL DEFAULT 0,  -- grows with each claim: an old worker's write no longer fits
    attempts            INTEGER NOT NULL DEFAULT 0,  -- since the last new instance
    not_before          REAL NOT NULL,               -- all times: seconds since 1970, UTC
    lease_until         REAL,
    received_at         REAL NOT NULL,
    last_instance_at    REAL NOT NULL,
    completed_at        REAL,
    priority            TEXT NOT NULL DEFAULT 'none',
    priority_rank       INTEGER NOT NULL DEFAULT 3,
    reason              TEXT,                        -- code
    message             TEXT,                        -- for people, without patient data
    result              TEXT NOT NULL DEFAULT '{}',  -- JSON: images with findings and result UIDs
    patient_name        TEXT NOT NULL DEFAULT '',
    patient_id          TEXT NOT NULL DEFAULT '',
    patient_birth_date  TEXT NOT NULL DEFAULT '',
    patient_sex         TEXT NOT NULL DEFAULT '',
    accession_number    TEXT NOT NULL DEFAULT '',
    study_date          TEXT NOT NULL DEFAULT '',
    study_time          TEXT NOT NULL DEFAULT '',
    study_description   TEXT NOT NULL DEFAULT ''
);
INSERT INTO "tasks" VALUES('2.25.1','done',1,1,1,1,1000.5,NULL,1000.5,1000.5,1003.25,'critical',0,NULL,'pneumothorax present','{"images":[{"sop_instance_uid":"2.25.11","status":"done"}],"version":1,"history":[]}','Phantom^Done','ID-2.25.1','19500101','F','ACC','20260101','101010','Chest');
INSERT INTO "tasks" VALUES('2.25.2','not_processed',1,1,1,1,1010.5,NULL,1010.5,1010.5,1012.0,'none',3,'modality','not a radiograph','{"images":[{"sop_instance_uid":"2.25.21","status":"not_processed","reason":"modality"}],"version":1,"history":[]}','Phantom^Refused','ID-2.25.2','19500101','F','ACC','20260101','101010','Chest');
INSERT INTO "tasks" VALUES('2.25.3','failed',1,1,1,1,1020.5,NULL,1020.5,1020.5,1022.0,'none',3,'internal_error','processing failed (ValueError); see the worker''s log','{}','Phantom^Failed','ID-2.25.3','19500101','F','ACC','20260101','101010','Chest');
INSERT INTO "tasks" VALUES('2.25.4','queued',2,1,1,0,1060.0,NULL,1030.5,1033.0,1032.0,'routine',2,NULL,NULL,'{"images":[{"sop_instance_uid":"2.25.41","status":"done"}],"version":1,"history":[]}','Phantom^Later','ID-2.25.4','19500101','F','ACC','20260101','101010','Chest');
INSERT INTO "tasks" VALUES('2.25.5','running',1,1,1,1,1040.0,1071.0,1040.0,1040.0,NULL,'none',3,NULL,NULL,'{}','Phantom^Running','ID-2.25.5','19500101','F','ACC','20260101','101010','Chest');
INSERT INTO "tasks" VALUES('2.25.6','queued',1,0,0,0,1050.5,NULL,1050.5,1050.5,NULL,'none',3,NULL,NULL,'{}','O''Phantom^Queued','ID-2.25.6','19500101','F','ACC','20260101','101010','Chest');
CREATE TABLE workers (
    worker_id  TEXT PRIMARY KEY,
    state      TEXT NOT NULL,                        -- starting | ready
    models     TEXT NOT NULL DEFAULT '{}',           -- JSON: name -> version
    seen_at    REAL NOT NULL
);
INSERT INTO "workers" VALUES('host-1','ready','{"lung_fields": "1"}',1051.0);
CREATE INDEX tasks_claimable ON tasks (not_before) WHERE status = 'queued';
CREATE INDEX tasks_leased ON tasks (lease_until) WHERE status = 'running';
CREATE INDEX tasks_reading_order ON tasks (priority_rank, received_at);
COMMIT;
