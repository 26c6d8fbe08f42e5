BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0013');
CREATE TABLE archive_cursor (
	cursor_id INTEGER NOT NULL, 
	archive_identity VARCHAR(64) NOT NULL, 
	last_change BIGINT NOT NULL, watermark BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (cursor_id)
);
INSERT INTO "archive_cursor" VALUES(1,'9ba602af1eee4848b4d032218cac1674',56,19);
CREATE TABLE archive_run (
	run_id VARCHAR(64) NOT NULL, 
	name TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	waits_for TEXT DEFAULT '' NOT NULL, 
	terms JSON NOT NULL, 
	plan_digest VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	created_by TEXT NOT NULL, 
	ended_at DATETIME, 
	studies INTEGER DEFAULT '0' NOT NULL, 
	due INTEGER DEFAULT '0' NOT NULL, 
	retrieving INTEGER DEFAULT '0' NOT NULL, 
	here INTEGER DEFAULT '0' NOT NULL, 
	reading INTEGER DEFAULT '0' NOT NULL, 
	collected INTEGER DEFAULT '0' NOT NULL, 
	done INTEGER DEFAULT '0' NOT NULL, 
	refused INTEGER DEFAULT '0' NOT NULL, 
	failed INTEGER DEFAULT '0' NOT NULL, 
	cancelled INTEGER DEFAULT '0' NOT NULL, 
	last_begun_at DATETIME, 
	archivist VARCHAR(200), 
	lease_until DATETIME, 
	PRIMARY KEY (run_id)
);
CREATE TABLE archivist (
	archivist VARCHAR(200) NOT NULL, 
	seen_at DATETIME NOT NULL, 
	PRIMARY KEY (archivist)
);
INSERT INTO "archivist" VALUES('reader7:/var/lib/coread/data','2026-11-22 04:10:27.509289');
CREATE TABLE arriving_study (
	orthanc_id VARCHAR(64) NOT NULL, 
	last_change BIGINT NOT NULL, 
	last_arrival_at DATETIME NOT NULL, first_arrival_at DATETIME, longest_pause_s FLOAT DEFAULT '0' NOT NULL, last_instance VARCHAR(64), instances INTEGER, stated JSON, waits_for TEXT DEFAULT '' NOT NULL, waits_until DATETIME, stalled BOOLEAN DEFAULT 0 NOT NULL, read_asked_at DATETIME, 
	PRIMARY KEY (orthanc_id)
);
CREATE TABLE audit_event (
	audit_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at DATETIME NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	study_instance_uid VARCHAR(64), 
	job_id VARCHAR(32), 
	who TEXT NOT NULL, 
	details JSON NOT NULL
);
INSERT INTO "audit_event" VALUES(1,'2026-11-22 04:10:09.644530','started',NULL,NULL,'','{"version": "0.1.0", "host": "reader7", "models": {"chest_xray_pneumonia": "0.1.0", "ecg_12_lead": "0.1.0", "hippocampus_t1": "0.1.0", "left_ventricle_sax": "0.2.0"}}');
INSERT INTO "audit_event" VALUES(2,'2026-11-22 04:10:12.780723','received','2.25.112659868962536019044242337471410103999',NULL,'COREAD-SEND','{"protocol": "DicomProtocol", "aet": "COREAD-SEND", "address": "127.0.0.1", "user": "", "sop_classes": {"1.2.840.10008.5.1.4.1.1.4": 9}, "again": false}');
INSERT INTO "audit_event" VALUES(3,'2026-11-22 04:10:12.780723','job recorded','2.25.112659868962536019044242337471410103999','c0ad6e7e8e841dd7dda3046c46bf7029','','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "reason": "no image is visibly missing, and its sender''s association is over"}');
INSERT INTO "audit_event" VALUES(4,'2026-11-22 04:10:19.426149','worker started',NULL,NULL,'reader7:31115:ac24dd5a','{"version": "0.1.0", "models": {"left_ventricle_sax": {"version": "0.2.0", "digest": "ddafee9b9afc3883b439b8e3bfffe1e6beb69ebd21e7862770cddbde30674a8a", "device": "cpu", "engine": "torch 2.13.0+cpu f32"}}}');
INSERT INTO "audit_event" VALUES(5,'2026-11-22 04:10:21.947854','model ran','2.25.112659868962536019044242337471410103999','c0ad6e7e8e841dd7dda3046c46bf7029','reader7:31115:ac24dd5a','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "attempt": 1, "started_at": "2026-11-22T04:10:19.892576+00:00", "outcome": "done", "reason": "", "model_digest": "ddafee9b9afc3883b439b8e3bfffe1e6beb69ebd21e7862770cddbde30674a8a", "device": "cpu", "engine": "torch 2.13.0+cpu f32", "way": "memory", "adapted": [], "series_instance_uid": "2.25.162168805267259466085363431823147694895"}');
INSERT INTO "audit_event" VALUES(6,'2026-11-22 04:10:21.947854','results written','2.25.112659868962536019044242337471410103999','c0ad6e7e8e841dd7dda3046c46bf7029','reader7:31115:ac24dd5a','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "instances": [["1.2.840.10008.5.1.4.1.1.66.4", "2.25.48164193409638589040464407242934467326"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.186368374840322609563782367019059885803"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.71306237136698055728997445797441097553"]]}');
INSERT INTO "audit_event" VALUES(7,'2026-11-22 04:10:22.335670','delivery begun','2.25.112659868962536019044242337471410103999','c0ad6e7e8e841dd7dda3046c46bf7029','','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "destination": "archive", "instances": [["1.2.840.10008.5.1.4.1.1.66.4", "2.25.48164193409638589040464407242934467326"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.186368374840322609563782367019059885803"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.71306237136698055728997445797441097553"]], "not_confirmed": ["2.25.48164193409638589040464407242934467326", "2.25.186368374840322609563782367019059885803", "2.25.71306237136698055728997445797441097553"], "reason": ""}');
INSERT INTO "audit_event" VALUES(8,'2026-11-22 04:10:23.500689','received','2.25.305225755456172446190002010632960668347',NULL,'COREAD-SEND','{"protocol": "DicomProtocol", "aet": "COREAD-SEND", "address": "127.0.0.1", "user": "", "sop_classes": {"1.2.840.10008.5.1.4.1.1.2": 8}, "again": false}');
INSERT INTO "audit_event" VALUES(9,'2026-11-22 04:10:23.500689','job recorded','2.25.305225755456172446190002010632960668347','3ce5519a8d3e46dc29da1bdc247fec18','','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "reason": "no image is visibly missing, and its sender''s association is over"}');
INSERT INTO "audit_event" VALUES(10,'2026-11-22 04:10:23.730554','model ran','2.25.305225755456172446190002010632960668347','3ce5519a8d3e46dc29da1bdc247fec18','reader7:31115:ac24dd5a','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "attempt": 1, "started_at": "2026-11-22T04:10:23.633424+00:00", "outcome": "refused", "reason": "expected a short-axis cardiac MR series (one stack, in one heart phase or several), found none (2.25.98202510769183334177732740466163355045: Modality is not MR, found CT); route such studies elsewhere", "model_digest": "ddafee9b9afc3883b439b8e3bfffe1e6beb69ebd21e7862770cddbde30674a8a", "device": "cpu", "series_instance_uid": ""}');
INSERT INTO "audit_event" VALUES(11,'2026-11-22 04:10:23.957981','reviewed','2.25.112659868962536019044242337471410103999','c0ad6e7e8e841dd7dda3046c46bf7029','','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "verdict": "accepted", "source": "page", "review_id": "ed4a37cd61af4945ace6d55d98e67325", "reason": "", "object": "", "basis": "", "instances": [["1.2.840.10008.5.1.4.1.1.66.4", "2.25.48164193409638589040464407242934467326"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.186368374840322609563782367019059885803"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.71306237136698055728997445797441097553"]]}');
INSERT INTO "audit_event" VALUES(12,'2026-11-22 04:10:24.770389','review written','2.25.112659868962536019044242337471410103999','c0ad6e7e8e841dd7dda3046c46bf7029','reader7:31115:ac24dd5a','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "verdict": "accepted", "review_id": "ed4a37cd61af4945ace6d55d98e67325", "reason": "", "instances": [["1.2.840.10008.5.1.4.1.1.88.34", "2.25.98558914381612168206434743469871572059"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.204756075677012530723142019911551649330"]]}');
INSERT INTO "audit_event" VALUES(13,'2026-11-22 04:10:26.015198','received','2.25.284433813752291566866837452162769544315',NULL,'COREAD-SEND','{"protocol": "DicomProtocol", "aet": "COREAD-SEND", "address": "127.0.0.1", "user": "", "sop_classes": {"1.2.840.10008.5.1.4.1.1.4": 9}, "again": false}');
INSERT INTO "audit_event" VALUES(14,'2026-11-22 04:10:26.015198','job recorded','2.25.284433813752291566866837452162769544315','a7c2f1fe2f2e05391f2c18d55a9c7486','','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "reason": "no image is visibly missing, and its sender''s association is over"}');
INSERT INTO "audit_event" VALUES(15,'2026-11-22 04:10:28.501092','received','2.25.127549562291857647138458607659615287731',NULL,'COREAD-SEND','{"protocol": "DicomProtocol", "aet": "COREAD-SEND", "address": "127.0.0.1", "user": "", "sop_classes": {"1.2.840.10008.5.1.4.1.1.4": 9}, "again": false}');
INSERT INTO "audit_event" VALUES(16,'2026-11-22 04:10:28.501092','job recorded','2.25.127549562291857647138458607659615287731','cb5509dfad955476017a170cb2aadbc1','','{"model": "left_ventricle_sax", "model_version": "0.2.0", "profiles": ["ohif"], "destinations": ["archive"], "priority": "routine", "reason": "no image is visibly missing, and its sender''s association is over"}');
CREATE TABLE audit_unsent (
	audit_id BIGINT NOT NULL, 
	PRIMARY KEY (audit_id)
);
INSERT INTO "audit_unsent" VALUES(1);
INSERT INTO "audit_unsent" VALUES(2);
INSERT INTO "audit_unsent" VALUES(3);
INSERT INTO "audit_unsent" VALUES(4);
INSERT INTO "audit_unsent" VALUES(5);
INSERT INTO "audit_unsent" VALUES(6);
INSERT INTO "audit_unsent" VALUES(7);
INSERT INTO "audit_unsent" VALUES(8);
INSERT INTO "audit_unsent" VALUES(9);
INSERT INTO "audit_unsent" VALUES(10);
INSERT INTO "audit_unsent" VALUES(11);
INSERT INTO "audit_unsent" VALUES(12);
INSERT INTO "audit_unsent" VALUES(13);
INSERT INTO "audit_unsent" VALUES(14);
INSERT INTO "audit_unsent" VALUES(15);
INSERT INTO "audit_unsent" VALUES(16);
CREATE TABLE commitment (
	transaction_uid VARCHAR(64) NOT NULL, 
	delivery_id INTEGER NOT NULL, 
	asked_at DATETIME NOT NULL, 
	PRIMARY KEY (transaction_uid), 
	FOREIGN KEY(delivery_id) REFERENCES delivery (delivery_id)
);
CREATE TABLE counted (
	counted_id INTEGER NOT NULL, 
	edition INTEGER NOT NULL, 
	marks JSON NOT NULL, 
	totals JSON NOT NULL, 
	PRIMARY KEY (counted_id)
);
CREATE TABLE delivery (
	delivery_id INTEGER NOT NULL, 
	job_id VARCHAR(32) NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	orthanc_id VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	withdrawn TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	courier VARCHAR(64), 
	opened_at DATETIME NOT NULL, 
	not_before DATETIME NOT NULL, 
	lease_until DATETIME, 
	review_id VARCHAR(32) DEFAULT '' NOT NULL, 
	PRIMARY KEY (delivery_id), 
	CONSTRAINT delivery_of_job UNIQUE (job_id, destination, review_id), 
	FOREIGN KEY(job_id) REFERENCES job (job_id)
);
INSERT INTO "delivery" VALUES(1,'c0ad6e7e8e841dd7dda3046c46bf7029','archive','2.25.112659868962536019044242337471410103999','274ee208-46806e57-5995c0a1-ea3e05c3-f2aaf8b2','left_ventricle_sax','waiting','ARCHIVE at 127.0.0.1:9 does not accept an association; is it running, and is that its port?','',2,NULL,'2026-11-22 04:10:21.947854','2026-11-22 04:10:37.743790','2026-11-22 04:11:27.590888','');
INSERT INTO "delivery" VALUES(2,'c0ad6e7e8e841dd7dda3046c46bf7029','archive','2.25.112659868962536019044242337471410103999','274ee208-46806e57-5995c0a1-ea3e05c3-f2aaf8b2','left_ventricle_sax','waiting','','',0,NULL,'2026-11-22 04:10:24.770389','2026-11-22 04:10:24.770389',NULL,'ed4a37cd61af4945ace6d55d98e67325');
CREATE TABLE delivery_event (
	event_id INTEGER NOT NULL, 
	delivery_id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	from_state VARCHAR(16), 
	to_state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	PRIMARY KEY (event_id), 
	FOREIGN KEY(delivery_id) REFERENCES delivery (delivery_id)
);
INSERT INTO "delivery_event" VALUES(1,1,'2026-11-22 04:10:21.947854',NULL,'waiting','the results are in the archive');
INSERT INTO "delivery_event" VALUES(2,1,'2026-11-22 04:10:22.335670','waiting','sending','');
INSERT INTO "delivery_event" VALUES(3,1,'2026-11-22 04:10:22.566283','sending','waiting','ARCHIVE at 127.0.0.1:9 does not accept an association; is it running, and is that its port?');
INSERT INTO "delivery_event" VALUES(4,2,'2026-11-22 04:10:24.770389',NULL,'waiting','the review is in the archive');
INSERT INTO "delivery_event" VALUES(5,1,'2026-11-22 04:10:27.590888','waiting','sending','');
INSERT INTO "delivery_event" VALUES(6,1,'2026-11-22 04:10:27.743790','sending','waiting','ARCHIVE at 127.0.0.1:9 does not accept an association; is it running, and is that its port?');
CREATE TABLE delivery_object (
	delivery_id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	PRIMARY KEY (delivery_id, sop_instance_uid), 
	FOREIGN KEY(delivery_id) REFERENCES delivery (delivery_id)
);
INSERT INTO "delivery_object" VALUES(1,'2.25.48164193409638589040464407242934467326',0,'1.2.840.10008.5.1.4.1.1.66.4','waiting','');
INSERT INTO "delivery_object" VALUES(1,'2.25.186368374840322609563782367019059885803',1,'1.2.840.10008.5.1.4.1.1.88.34','waiting','');
INSERT INTO "delivery_object" VALUES(1,'2.25.71306237136698055728997445797441097553',2,'1.2.840.10008.5.1.4.1.1.88.34','waiting','');
INSERT INTO "delivery_object" VALUES(2,'2.25.98558914381612168206434743469871572059',0,'1.2.840.10008.5.1.4.1.1.88.34','waiting','');
INSERT INTO "delivery_object" VALUES(2,'2.25.204756075677012530723142019911551649330',1,'1.2.840.10008.5.1.4.1.1.88.34','waiting','');
CREATE TABLE finding_due (
	job_id VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	PRIMARY KEY (job_id)
);
CREATE TABLE job (
	job_id VARCHAR(32) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	orthanc_id VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	model_version VARCHAR(64) NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	priority VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	worker VARCHAR(64), 
	created_at DATETIME NOT NULL, 
	not_before DATETIME NOT NULL, 
	lease_until DATETIME, 
	result JSON, revision VARCHAR(64) DEFAULT '' NOT NULL, profiles JSON DEFAULT '["ohif"]' NOT NULL, destinations JSON DEFAULT '[]' NOT NULL, queue VARCHAR(64) DEFAULT 'gpu' NOT NULL, silences INTEGER DEFAULT '0' NOT NULL, runs INTEGER DEFAULT '0' NOT NULL, priority_by_person BOOLEAN DEFAULT 0 NOT NULL, only_for_runs BOOLEAN DEFAULT 0 NOT NULL, 
	PRIMARY KEY (job_id)
);
INSERT INTO "job" VALUES('c0ad6e7e8e841dd7dda3046c46bf7029','2.25.112659868962536019044242337471410103999','274ee208-46806e57-5995c0a1-ea3e05c3-f2aaf8b2','left_ventricle_sax','0.2.0','c4820ca0012601e9bde782e915f66038bc682d9cb85b9c855b6ce6d86a4435e1','routine','done','',1,'reader7:31115:ac24dd5a','2026-11-22 04:10:12.780723','2026-11-22 04:10:12.780723','2026-11-22 04:10:25.896858','{"job_id": "c0ad6e7e8e841dd7dda3046c46bf7029", "study_instance_uid": "2.25.112659868962536019044242337471410103999", "series_instance_uid": "2.25.162168805267259466085363431823147694895", "model": "left_ventricle_sax", "model_version": "0.2.0", "model_digest": "ddafee9b9afc3883b439b8e3bfffe1e6beb69ebd21e7862770cddbde30674a8a", "device": "cpu", "findings": [{"structure": "Left ventricular myocardium", "code": ["49848007", "SCT", "Left Ventricle Myocardium", null], "present": true, "measurements": [{"name": "Volume", "code": ["118565006", "SCT", "Volume", null], "derivation": null, "value": 67.51808073658538, "unit": "ml"}, {"name": "Mass", "code": ["118538004", "SCT", "Mass", null], "derivation": null, "value": 70.89398477341464, "unit": "g"}, {"name": "Mean MR signal intensity", "code": ["110852", "DCM", "MR signal intensity", null], "derivation": ["373098007", "SCT", "Mean", null], "value": 189.42080817464003, "unit": "[arb''U]"}, {"name": "Standard Deviation MR signal intensity", "code": ["110852", "DCM", "MR signal intensity", null], "derivation": ["386136009", "SCT", "Standard Deviation", null], "value": 31.004065686327447, "unit": "[arb''U]"}, {"name": "Maximum Diameter", "code": ["81827009", "SCT", "Diameter", null], "derivation": ["56851009", "SCT", "Maximum", null], "value": 81.52275827456788, "unit": "mm"}]}, {"structure": "Left ventricular cavity", "code": ["87612001", "SCT", "Blood", null], "present": true, "measurements": [{"name": "Volume", "code": ["118565006", "SCT", "Volume", null], "derivation": null, "value": 102.2022411149706, "unit": "ml"}, {"name": "Mean MR signal intensity", "code": ["110852", "DCM", "MR signal intensity", null], "derivation": ["373098007", "SCT", "Mean", null], "value": 459.29456888616136, "unit": "[arb''U]"}, {"name": "Standard Deviation MR signal intensity", "code": ["110852", "DCM", "MR signal intensity", null], "derivation": ["386136009", "SCT", "Standard Deviation", null], "value": 152.52369995153805, "unit": "[arb''U]"}, {"name": "Maximum Diameter", "code": ["81827009", "SCT", "Diameter", null], "derivation": ["56851009", "SCT", "Maximum", null], "value": 74.65815487180218, "unit": "mm"}]}], "classes": [], "numbers": [], "marks": [], "sop_instance_uids": ["2.25.48164193409638589040464407242934467326", "2.25.186368374840322609563782367019059885803", "2.25.71306237136698055728997445797441097553"], "sop_class_uids": ["1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.34"], "tracking_uids": ["2.25.64807638304898944843496498916819170213", "2.25.317117964549886413602790029947683040031"], "limits": "Demonstration model, trained on 23 patients of one centre; not for diagnosis.", "input": {"slices": 9.0, "rows": 240.0, "columns": 256.0, "slice_spacing_mm": 8.0, "row_spacing_mm": 1.4, "column_spacing_mm": 1.4, "intensity_mean": 127.881, "intensity_sd": 161.237, "intensity_p01": 4.0, "intensity_p05": 9.0, "intensity_p25": 23.0, "intensity_p50": 49.0, "intensity_p75": 181.0, "intensity_p95": 541.0, "intensity_p99": 624.0}, "engine": "torch 2.13.0+cpu f32", "way": "memory", "adapted": [], "saliency": [], "series": {"2.25.162168805267259466085363431823147694895": "taken as a short-axis cardiac MR series (one stack, in one heart phase or several): the only candidate"}, "seconds": {"fetch": 0.0348, "infer": 0.9224, "measure": 0.0153, "encode": 0.6272, "draw": 0.0963, "store": 0.2373}, "stages": {"fetch": ["2026-11-22T04:10:19.961037+00:00", "2026-11-22T04:10:19.995828+00:00"], "infer": ["2026-11-22T04:10:19.995972+00:00", "2026-11-22T04:10:20.918336+00:00"], "measure": ["2026-11-22T04:10:20.927908+00:00", "2026-11-22T04:10:20.943191+00:00"], "encode": ["2026-11-22T04:10:20.943223+00:00", "2026-11-22T04:10:21.570374+00:00"], "draw": ["2026-11-22T04:10:21.572851+00:00", "2026-11-22T04:10:21.669136+00:00"], "store": ["2026-11-22T04:10:21.708434+00:00", "2026-11-22T04:10:21.945709+00:00"]}, "pictures": [{"caption": "slice 9 of 9: largest extent of Left ventricular cavity, Left ventricular myocardium", "instance": "c33f944f-66cc1f19-f19f2c17-15060610-d490b134", "attachment": "4720"}]}','a72f9b644037102f83fabcacc74217c4641179c65dd6d1bd322cbb5f3ae5e05a','["ohif"]','["archive"]','gpu',0,0,0,0);
INSERT INTO "job" VALUES('3ce5519a8d3e46dc29da1bdc247fec18','2.25.305225755456172446190002010632960668347','da0e0dfa-c099f028-26c4f291-d65da3b3-cd55bdfa','left_ventricle_sax','0.2.0','ea177dd22afc6814d77dae06962af39b7dbe44003a779308354dfaa9b51b1b73','routine','refused','expected a short-axis cardiac MR series (one stack, in one heart phase or several), found none (2.25.98202510769183334177732740466163355045: Modality is not MR, found CT); route such studies elsewhere',1,'reader7:31115:ac24dd5a','2026-11-22 04:10:23.500689','2026-11-22 04:10:23.500689','2026-11-22 04:10:27.688575','{"job_id": "3ce5519a8d3e46dc29da1bdc247fec18", "study_instance_uid": "2.25.305225755456172446190002010632960668347", "series_instance_uid": "", "model": "left_ventricle_sax", "model_version": "0.2.0", "model_digest": "ddafee9b9afc3883b439b8e3bfffe1e6beb69ebd21e7862770cddbde30674a8a", "device": "cpu", "findings": [], "classes": [], "numbers": [], "marks": [], "sop_instance_uids": [], "sop_class_uids": [], "tracking_uids": [], "limits": "Demonstration model, trained on 23 patients of one centre; not for diagnosis.", "series": {"2.25.98202510769183334177732740466163355045": "Modality is not MR, found CT"}, "seconds": {"store": 0.0406}, "stages": {"store": ["2026-11-22T04:10:23.688563+00:00", "2026-11-22T04:10:23.729171+00:00"]}, "pictures": []}','d482ad5ec064213d300ed7a243e93d83d214acaf13ee4f4a9cc29ccbd6878496','["ohif"]','["archive"]','gpu',0,0,0,0);
INSERT INTO "job" VALUES('a7c2f1fe2f2e05391f2c18d55a9c7486','2.25.284433813752291566866837452162769544315','75e73b42-ca372363-39d76c40-7cefe448-03c3936a','left_ventricle_sax','0.2.0','97eb22a1eb7c0d242187dd6bbb6235a6daff4304f8979f007b1488057b3fbec1','routine','running','',1,'reader7:31115:ac24dd5a','2026-11-22 04:10:26.015198','2026-11-22 04:10:26.015198','2026-11-22 04:10:30.277186',NULL,'9145d32ae345ec3a0ae615683128bc9919825f9b28b6cec591b1a8b0d0eb3283','["ohif"]','["archive"]','gpu',0,0,0,0);
INSERT INTO "job" VALUES('cb5509dfad955476017a170cb2aadbc1','2.25.127549562291857647138458607659615287731','abac586a-de97e445-799d553d-c3fe61e3-93d9f974','left_ventricle_sax','0.2.0','35d740be6c8c19f7e691fb5f649c9db187bd4c4f86607e81bdf871389d29a2d9','routine','queued','',0,NULL,'2026-11-22 04:10:28.501092','2026-11-22 04:10:28.501092',NULL,NULL,'4a370ef5e6c6d8222c8347341633a507cb9d50314d6a88dfa83fb9ef22252676','["ohif"]','["archive"]','gpu',0,0,0,0);
CREATE TABLE job_claim (
	job_id VARCHAR(32) NOT NULL, 
	attempts INTEGER NOT NULL, 
	transaction_uid VARCHAR(64) NOT NULL, 
	PRIMARY KEY (job_id)
);
CREATE TABLE job_event (
	event_id INTEGER NOT NULL, 
	job_id VARCHAR(32) NOT NULL, 
	at DATETIME NOT NULL, 
	from_state VARCHAR(16), 
	to_state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, reason_class VARCHAR(32), 
	PRIMARY KEY (event_id), 
	FOREIGN KEY(job_id) REFERENCES job (job_id)
);
INSERT INTO "job_event" VALUES(1,'c0ad6e7e8e841dd7dda3046c46bf7029','2026-11-22 04:10:12.780723',NULL,'waiting','no image is visibly missing, and its sender''s association is over','none');
INSERT INTO "job_event" VALUES(2,'c0ad6e7e8e841dd7dda3046c46bf7029','2026-11-22 04:10:12.975503','waiting','queued','','none');
INSERT INTO "job_event" VALUES(3,'c0ad6e7e8e841dd7dda3046c46bf7029','2026-11-22 04:10:19.892576','queued','running','','none');
INSERT INTO "job_event" VALUES(4,'c0ad6e7e8e841dd7dda3046c46bf7029','2026-11-22 04:10:21.692636','running','storing','','none');
INSERT INTO "job_event" VALUES(5,'c0ad6e7e8e841dd7dda3046c46bf7029','2026-11-22 04:10:21.947854','storing','done','','none');
INSERT INTO "job_event" VALUES(6,'3ce5519a8d3e46dc29da1bdc247fec18','2026-11-22 04:10:23.500689',NULL,'waiting','no image is visibly missing, and its sender''s association is over','none');
INSERT INTO "job_event" VALUES(7,'3ce5519a8d3e46dc29da1bdc247fec18','2026-11-22 04:10:23.541684','waiting','queued','','none');
INSERT INTO "job_event" VALUES(8,'3ce5519a8d3e46dc29da1bdc247fec18','2026-11-22 04:10:23.633424','queued','running','','none');
INSERT INTO "job_event" VALUES(9,'3ce5519a8d3e46dc29da1bdc247fec18','2026-11-22 04:10:23.671547','running','storing','','none');
INSERT INTO "job_event" VALUES(10,'3ce5519a8d3e46dc29da1bdc247fec18','2026-11-22 04:10:23.730554','storing','refused','expected a short-axis cardiac MR series (one stack, in one heart phase or several), found none (2.25.98202510769183334177732740466163355045: Modality is not MR, found CT); route such studies elsewhere','no_suitable_series');
INSERT INTO "job_event" VALUES(11,'a7c2f1fe2f2e05391f2c18d55a9c7486','2026-11-22 04:10:26.015198',NULL,'waiting','no image is visibly missing, and its sender''s association is over','none');
INSERT INTO "job_event" VALUES(12,'a7c2f1fe2f2e05391f2c18d55a9c7486','2026-11-22 04:10:26.129495','waiting','queued','','none');
INSERT INTO "job_event" VALUES(13,'a7c2f1fe2f2e05391f2c18d55a9c7486','2026-11-22 04:10:26.277186','queued','running','','none');
INSERT INTO "job_event" VALUES(14,'cb5509dfad955476017a170cb2aadbc1','2026-11-22 04:10:28.501092',NULL,'waiting','no image is visibly missing, and its sender''s association is over','none');
INSERT INTO "job_event" VALUES(15,'cb5509dfad955476017a170cb2aadbc1','2026-11-22 04:10:28.587519','waiting','queued','','none');
CREATE TABLE looked_ahead (
	job_id VARCHAR NOT NULL, 
	worker VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	PRIMARY KEY (job_id)
);
CREATE TABLE notice (
	notice_id INTEGER NOT NULL, 
	"key" VARCHAR NOT NULL, 
	raise_id INTEGER NOT NULL, 
	channel VARCHAR NOT NULL, 
	event VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	created_at DATETIME NOT NULL, 
	not_before DATETIME NOT NULL, 
	PRIMARY KEY (notice_id), 
	UNIQUE ("key"), 
	FOREIGN KEY(raise_id) REFERENCES raised_study (raise_id)
);
CREATE TABLE outdated_result (
	job_id VARCHAR(32) NOT NULL, 
	not_before DATETIME NOT NULL, 
	PRIMARY KEY (job_id), 
	FOREIGN KEY(job_id) REFERENCES job (job_id)
);
CREATE TABLE process (
	name VARCHAR(128) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	started_at DATETIME NOT NULL, 
	seen_at DATETIME NOT NULL, 
	clock_offset_s FLOAT NOT NULL, 
	facts JSON NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "process" VALUES('reader7:31116:b2c8092f','courier','reader7','2026-11-22 04:10:12.651218','2026-11-22 04:10:27.729411',-0.000152,'{"name": "reader7:31116:b2c8092f", "kind": "courier", "host": "reader7", "version": "0.1.0", "started_at": "2026-11-22T04:10:12.651218+00:00", "told_at": "2026-11-22T04:10:27.729259+00:00", "memory_bytes": 116523008, "queues": [], "models": {}, "gpus": []}');
INSERT INTO "process" VALUES('reader7:31118:d2b0966e','archivist','reader7','2026-11-22 04:10:13.359997','2026-11-22 04:10:28.404605',-0.000178,'{"name": "reader7:31118:d2b0966e", "kind": "archivist", "host": "reader7", "version": "0.1.0", "started_at": "2026-11-22T04:10:13.359997+00:00", "told_at": "2026-11-22T04:10:28.404427+00:00", "memory_bytes": 130482176, "queues": [], "models": {}, "gpus": []}');
INSERT INTO "process" VALUES('reader7:31115:ac24dd5a','worker','reader7','2026-11-22 04:10:19.525636','2026-11-22 04:10:19.530520',-0.000489,'{"name": "reader7:31115:ac24dd5a", "kind": "worker", "host": "reader7", "version": "0.1.0", "started_at": "2026-11-22T04:10:19.525636+00:00", "told_at": "2026-11-22T04:10:19.530031+00:00", "memory_bytes": 680468480, "queues": ["gpu"], "models": {"left_ventricle_sax": {"version": "0.2.0", "digest": "ddafee9b9afc3883b439b8e3bfffe1e6beb69ebd21e7862770cddbde30674a8a", "device": "cpu", "engine": "torch 2.13.0+cpu f32"}}, "gpus": []}');
CREATE TABLE queue (
	queue VARCHAR(64) NOT NULL, 
	batch_claimed_at DATETIME, 
	PRIMARY KEY (queue)
);
INSERT INTO "queue" VALUES('gpu',NULL);
CREATE TABLE raised_study (
	raise_id INTEGER NOT NULL, 
	alert VARCHAR NOT NULL, 
	orthanc_id VARCHAR NOT NULL, 
	study_instance_uid VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	job_id VARCHAR NOT NULL, 
	priority VARCHAR, 
	label VARCHAR, 
	words TEXT NOT NULL, 
	raised_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	ended_because TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (raise_id)
);
CREATE TABLE returned_object (
	instance VARCHAR(64) NOT NULL, 
	orthanc_id VARCHAR(64) NOT NULL, 
	attempts INTEGER NOT NULL, 
	clerk VARCHAR(64), 
	not_before DATETIME NOT NULL, 
	lease_until DATETIME, 
	PRIMARY KEY (instance)
);
CREATE TABLE review (
	number INTEGER NOT NULL, 
	review_id VARCHAR(32) NOT NULL, 
	job_id VARCHAR(32) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	orthanc_id VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	model_version VARCHAR(64) NOT NULL, 
	verdict VARCHAR(16) NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	at DATETIME NOT NULL, 
	who TEXT NOT NULL, 
	reader TEXT NOT NULL, 
	reason JSON, 
	comment TEXT NOT NULL, 
	result_digest VARCHAR(64) NOT NULL, 
	results JSON NOT NULL, 
	stops_delivery BOOLEAN NOT NULL, 
	object_uid VARCHAR(64), 
	basis VARCHAR(16), 
	comparison JSON NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (review_id)
);
INSERT INTO "review" VALUES(1,'ed4a37cd61af4945ace6d55d98e67325','c0ad6e7e8e841dd7dda3046c46bf7029','2.25.112659868962536019044242337471410103999','274ee208-46806e57-5995c0a1-ea3e05c3-f2aaf8b2','left_ventricle_sax','0.2.0','accepted','page','2026-11-22 04:10:23.957981','','Curie^Marie',NULL,'','4078eda20d312d6436701ae66234789ecd7cd6849859897a7f30f01429114eaa','[["1.2.840.10008.5.1.4.1.1.66.4", "2.25.48164193409638589040464407242934467326"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.186368374840322609563782367019059885803"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.71306237136698055728997445797441097553"]]',0,NULL,NULL,'{}');
CREATE TABLE review_writing (
	review_id VARCHAR(32) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	failure TEXT NOT NULL, 
	objects JSON NOT NULL, 
	attempts INTEGER NOT NULL, 
	clerk VARCHAR(64), 
	not_before DATETIME NOT NULL, 
	lease_until DATETIME, 
	written_at DATETIME, 
	PRIMARY KEY (review_id)
);
INSERT INTO "review_writing" VALUES('ed4a37cd61af4945ace6d55d98e67325','written','','[["1.2.840.10008.5.1.4.1.1.88.34", "2.25.98558914381612168206434743469871572059"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.204756075677012530723142019911551649330"]]',1,NULL,'2026-11-22 04:10:23.957981',NULL,'2026-11-22 04:10:24.770389');
CREATE TABLE run_job (
	run_id VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	job_id VARCHAR(32) NOT NULL, 
	PRIMARY KEY (run_id, position, job_id)
);
CREATE TABLE run_study (
	run_id VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	is_permanent BOOLEAN DEFAULT 0 NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	is_retry BOOLEAN DEFAULT 0 NOT NULL, 
	orthanc_id VARCHAR(64), 
	copy VARCHAR(16) DEFAULT '' NOT NULL, 
	brought VARCHAR(64), 
	stated_instances INTEGER, 
	instances INTEGER, 
	bytes BIGINT, 
	not_before DATETIME, 
	changed_at DATETIME NOT NULL, 
	PRIMARY KEY (run_id, position), 
	FOREIGN KEY(run_id) REFERENCES archive_run (run_id)
);
CREATE TABLE workitem (
	uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	priority VARCHAR(16) NOT NULL, 
	study_instance_uid VARCHAR(64), 
	model VARCHAR(64), 
	job_id VARCHAR(32), 
	run INTEGER, 
	is_cause BOOLEAN DEFAULT 0 NOT NULL, 
	transaction_uid VARCHAR(64), 
	lease_until DATETIME, 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	outcome JSON, 
	PRIMARY KEY (uid)
);
CREATE TABLE workitem_change (
	change_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	uid VARCHAR(64), 
	job_id VARCHAR(32), 
	run INTEGER, 
	state VARCHAR(16) NOT NULL, 
	job_state VARCHAR(16), 
	at DATETIME NOT NULL
);
INSERT INTO "workitem_change" VALUES(9,NULL,'cb5509dfad955476017a170cb2aadbc1',0,'SCHEDULED','waiting','2026-11-22 04:10:28.501092');
CREATE INDEX job_by_study ON job (study_instance_uid, model);
CREATE INDEX ix_job_event_job_id ON job_event (job_id);
CREATE INDEX job_to_do ON job (state, queue, priority, created_at, job_id);
CREATE INDEX job_by_lease ON job (state, lease_until);
CREATE INDEX job_by_age ON job (created_at, job_id);
CREATE INDEX job_by_reading ON job (orthanc_id, model);
CREATE INDEX audit_by_study ON audit_event (study_instance_uid, audit_id);
CREATE INDEX audit_by_job ON audit_event (job_id, audit_id);
CREATE INDEX audit_by_time ON audit_event (at, audit_id);
CREATE INDEX review_by_job ON review (job_id, number);
CREATE INDEX review_by_study ON review (study_instance_uid, number);
CREATE INDEX review_by_orthanc_id ON review (orthanc_id, number);
CREATE INDEX review_by_model ON review (model, number);
CREATE INDEX review_by_time ON review (at, number);
CREATE INDEX review_to_write ON review_writing (state, not_before);
CREATE INDEX returned_object_due ON returned_object (not_before);
CREATE INDEX delivery_to_do ON delivery (destination, state, opened_at, delivery_id);
CREATE INDEX delivery_by_study ON delivery (orthanc_id, destination);
CREATE INDEX delivery_by_uid ON delivery (study_instance_uid);
CREATE INDEX delivery_by_age ON delivery (opened_at, delivery_id);
CREATE INDEX delivery_by_destination ON delivery (destination, opened_at, delivery_id);
CREATE INDEX delivery_by_state ON delivery (state, opened_at, delivery_id);
CREATE INDEX delivery_by_lease ON delivery (state, lease_until);
CREATE INDEX ix_delivery_event_delivery_id ON delivery_event (delivery_id);
CREATE INDEX ix_commitment_delivery_id ON commitment (delivery_id);
CREATE INDEX workitem_by_study ON workitem (study_instance_uid, state);
CREATE INDEX workitem_by_job ON workitem (job_id);
CREATE INDEX workitem_by_age ON workitem (created_at, uid);
CREATE INDEX workitem_by_state ON workitem (state, lease_until);
CREATE INDEX ix_raised_study_job_id ON raised_study (job_id);
CREATE INDEX ix_raised_study_orthanc_id ON raised_study (orthanc_id);
CREATE INDEX ix_notice_state_not_before ON notice (state, channel, not_before);
CREATE INDEX ix_archive_run_ended_at ON archive_run (ended_at);
CREATE INDEX run_study_by_uid ON run_study (study_instance_uid);
CREATE INDEX run_study_by_state ON run_study (run_id, state, position);
CREATE INDEX run_study_due ON run_study (run_id, state, not_before, position);
CREATE INDEX run_study_by_change ON run_study (run_id, state, changed_at);
CREATE INDEX run_job_by_job ON run_job (job_id);
CREATE INDEX job_to_count ON job (state, queue, priority, model);
CREATE INDEX raised_standing ON raised_study (ended_at, alert);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('audit_event',16);
INSERT INTO "sqlite_sequence" VALUES('workitem_change',9);
COMMIT;
