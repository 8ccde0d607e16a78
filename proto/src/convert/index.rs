//! Messages of `metadata_replication.proto`.
