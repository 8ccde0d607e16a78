//! The index: who has which trace. Hot rows are exact; a frozen tier of sealed runs would stand
//! beside them as `index/frozen`.

pub mod hot;
