//! Messages of `cell_query.proto`.
