/** The schema, as steps. A step that has been released is never changed; a new one is added at the end. */

/** Adds a row of `files` to the counts of its store, or takes it away. */
function counting(row: 'NEW' | 'OLD', sign: '+' | '-'): string {
  const is = {
    '': `${row}.deleted_ms IS NULL`,
    local_: `${row}.deleted_ms IS NULL AND ${row}.local IS NOT NULL`,
    cloud_: `${row}.deleted_ms IS NULL AND ${row}.cloud = 1`,
    both_: `${row}.deleted_ms IS NULL AND ${row}.local IS NOT NULL AND ${row}.cloud = 1`,
    deleted_: `${row}.deleted_ms IS NOT NULL`,
  }
  const set = Object.entries(is).flatMap(([kind, condition]) => [
    `${kind}files = ${kind}files ${sign} (${condition})`,
    `${kind}bytes = ${kind}bytes ${sign} ${row}.size * (${condition})`,
  ])
  return `UPDATE file_counts SET ${set.join(', ')} WHERE store = ${row}.store`
}

/** Step n brings a database from schema n to n + 1. */
export const migrations: readonly string[] = [
  `
  CREATE TABLE jobs (
    queue TEXT NOT NULL,
    key TEXT NOT NULL,
    grp TEXT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'aside')),
    due_ms INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    token INTEGER NOT NULL,
    again TEXT,
    again_due_ms INTEGER,
    reason TEXT,
    PRIMARY KEY (queue, key)
  ) WITHOUT ROWID;
  CREATE INDEX jobs_due ON jobs (queue, state, due_ms);

  CREATE TABLE seen (
    source TEXT NOT NULL,
    directory TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns TEXT NOT NULL,
    inode TEXT NOT NULL,
    PRIMARY KEY (source, directory, name)
  ) WITHOUT ROWID;

  CREATE TABLE seen_directories (
    source TEXT NOT NULL,
    directory TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (source, directory)
  ) WITHOUT ROWID;

  CREATE TABLE ledger (
    source TEXT NOT NULL,
    path TEXT NOT NULL,
    rule TEXT NOT NULL,
    destination TEXT NOT NULL,
    key TEXT NOT NULL,
    url TEXT,
    size INTEGER,
    digest TEXT,
    source_size INTEGER,
    source_mtime_ns TEXT,
    source_inode TEXT,
    fingerprint TEXT,
    delivered_ms INTEGER,
    PRIMARY KEY (source, path, rule, destination, key)
  ) WITHOUT ROWID;
  CREATE INDEX ledger_key ON ledger (destination, key);

  CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
  `,
  'ALTER TABLE ledger ADD COLUMN link TEXT',
  `CREATE TABLE invalidations (
    distribution TEXT NOT NULL,
    path TEXT NOT NULL,
    times INTEGER NOT NULL,
    PRIMARY KEY (distribution, path)
  ) WITHOUT ROWID`,
  // How many jobs there are is asked far more often than it may cost to count them.
  `CREATE TABLE job_counts (
    queue TEXT NOT NULL,
    grp TEXT NOT NULL,
    state TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (queue, grp, state)
  ) WITHOUT ROWID;
  INSERT INTO job_counts SELECT queue, grp, state, COUNT(*) FROM jobs GROUP BY queue, grp, state;
  CREATE TRIGGER jobs_added AFTER INSERT ON jobs BEGIN
    INSERT INTO job_counts VALUES (NEW.queue, NEW.grp, NEW.state, 1) ON CONFLICT DO UPDATE SET jobs = jobs + 1;
  END;
  CREATE TRIGGER jobs_removed AFTER DELETE ON jobs BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE queue = OLD.queue AND grp = OLD.grp AND state = OLD.state;
  END;
  CREATE TRIGGER jobs_changed AFTER UPDATE OF grp, state ON jobs
  WHEN NEW.grp <> OLD.grp OR NEW.state <> OLD.state BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE queue = OLD.queue AND grp = OLD.grp AND state = OLD.state;
    INSERT INTO job_counts VALUES (NEW.queue, NEW.grp, NEW.state, 1) ON CONFLICT DO UPDATE SET jobs = jobs + 1;
  END;
  -- A group that must wait, however many jobs it has, is in nobody's way.
  DROP INDEX jobs_due;
  CREATE INDEX jobs_due ON jobs (state, queue, grp, due_ms)`,
  // The registry. A file is here, in the cloud, or both; what a deleted one had is kept until it can no longer be restored.
  `CREATE TABLE files (
    store TEXT NOT NULL,
    key TEXT NOT NULL,
    version TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    content_type TEXT,
    metadata TEXT,
    local TEXT,
    former TEXT,
    cloud INTEGER NOT NULL DEFAULT 0,
    deleted_ms INTEGER,
    sha256 TEXT,
    checksums TEXT,
    PRIMARY KEY (store, key)
  ) WITHOUT ROWID;
  -- What is rare is not looked for among all the others.
  CREATE INDEX files_local ON files (store, key) WHERE local IS NOT NULL;
  CREATE INDEX files_deleted ON files (store, key) WHERE deleted_ms IS NOT NULL;
  CREATE TABLE replicas (
    remote TEXT NOT NULL,
    remote_key TEXT NOT NULL,
    store TEXT NOT NULL,
    key TEXT NOT NULL,
    location TEXT NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'present', 'deleting')),
    etag TEXT,
    failed_ms INTEGER,
    reason TEXT,
    PRIMARY KEY (remote, remote_key)
  ) WITHOUT ROWID;
  CREATE INDEX replicas_file ON replicas (store, key);
  CREATE INDEX replicas_failed ON replicas (store, key) WHERE failed_ms IS NOT NULL;
  CREATE TABLE file_counts (
    store TEXT PRIMARY KEY,
    files INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    local_files INTEGER NOT NULL DEFAULT 0,
    local_bytes INTEGER NOT NULL DEFAULT 0,
    cloud_files INTEGER NOT NULL DEFAULT 0,
    cloud_bytes INTEGER NOT NULL DEFAULT 0,
    both_files INTEGER NOT NULL DEFAULT 0,
    both_bytes INTEGER NOT NULL DEFAULT 0,
    deleted_files INTEGER NOT NULL DEFAULT 0,
    deleted_bytes INTEGER NOT NULL DEFAULT 0
  ) WITHOUT ROWID;
  CREATE TRIGGER files_added AFTER INSERT ON files BEGIN
    INSERT INTO file_counts (store) VALUES (NEW.store) ON CONFLICT DO NOTHING;
    ${counting('NEW', '+')};
  END;
  CREATE TRIGGER files_removed AFTER DELETE ON files BEGIN
    ${counting('OLD', '-')};
  END;
  CREATE TRIGGER files_changed AFTER UPDATE OF size, local, cloud, deleted_ms ON files BEGIN
    ${counting('OLD', '-')};
    ${counting('NEW', '+')};
  END`,
  // What is delivered shows addresses of other files: who refers to whom, under which key, and waits for it.
  `CREATE TABLE refers (
    source TEXT NOT NULL,
    path TEXT NOT NULL,
    rule TEXT NOT NULL,
    destination TEXT NOT NULL,
    directory TEXT NOT NULL,
    to_source TEXT NOT NULL,
    to_path TEXT NOT NULL,
    key TEXT NOT NULL,
    pending INTEGER NOT NULL,
    PRIMARY KEY (source, path, rule, destination, directory, to_source, to_path, key)
  ) WITHOUT ROWID;
  CREATE INDEX refers_to ON refers (to_source, to_path, destination);
  CREATE INDEX refers_key ON refers (destination, key)`,
  // Other forms of a file, such as compressed ones, lie beside it, and nobody refers to them.
  `ALTER TABLE ledger ADD COLUMN variant TEXT NOT NULL DEFAULT ''`,
]
