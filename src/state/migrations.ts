/** The schema, as steps. A step that has been released is never changed; a new one is added at the end. */

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
]
