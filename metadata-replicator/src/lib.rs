//! Who has which trace, everywhere: contribution logs, peer streams and the index.
