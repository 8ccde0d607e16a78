//! A closed file is written anew without the records that do not stay. Never while what it lacks may yet
//! be read: an error of the disk that passes must not make a loss for good.

use std::sync::Arc;

use trace_model::location::Cursor;

use super::files::{short, sync_directory, write_file};
use super::packed::Packer;
use super::part::{Segment, is_whole};
use super::segment::{HEADER_BYTES, Header, Location, Scan, Scanned, put_record};
use super::segments::Segments;
use super::sieve::Sieve;
use crate::error::ReplicatorError;

impl Segments {
    /// Rewrites an older segment without the records that do not stay. Gives where the others went.
    /// Cursors stay valid.
    pub(crate) fn compact(
        &self,
        first: Cursor,
        sieve: &mut dyn Sieve,
    ) -> Result<Vec<(Location, Location)>, ReplicatorError> {
        let (number, path, part) = {
            let mut state = self.state();
            let Some(segment) = state.segments.get(&first) else { return Ok(Vec::new()) };
            let part = segment.part(self.disk.as_ref(), first, first.sequence);
            let (number, path) = (segment.number, segment.path.clone());
            let Some(part) = state.opened(first, part)? else { return Ok(Vec::new()) };
            (number, path, part)
        };
        let bytes = part.bytes()?;
        let is_whole = is_whole(&bytes);
        if self.state().segments.get_mut(&first).is_some_and(|held| held.is_doubted(is_whole)) {
            tracing::warn!(path = %path.display(), "a file is not whole; it is read again before it is written anew");
            return Ok(Vec::new());
        }
        let failed = || ReplicatorError::disk("pack", &path);
        let header = Header { first, is_compacted: true, is_packed: true };
        let mut packer = Packer::new(header.encode());
        let mut rewritten = Segment::empty(number, path.clone(), first);
        let (mut moved, mut last) = (Vec::new(), None);
        for scanned in Scan::new(&bytes, HEADER_BYTES, 0) {
            let Scanned::Record(record) = scanned else {
                sieve.meet_damage();
                continue;
            };
            let from = Location { segment: number, offset: short(record.offset)? };
            let Some(stamp) = sieve.keep(from, record.payload) else { continue };
            let offset = packer.plain_bytes();
            let put = |output: &mut Vec<u8>| put_record(output, record.sequence, record.payload);
            packer.put(put).map_err(failed())?;
            if last.replace(record.sequence) != Some(record.sequence) {
                rewritten.mark(record.sequence, offset as u64);
            }
            rewritten.stamp = rewritten.stamp.max(stamp);
            moved.push((from, Location { segment: number, offset: short(offset)? }));
        }
        sieve.before_swap()?;
        rewritten.length = packer.plain_bytes() as u64;
        let (output, blocks) = packer.finish().map_err(failed())?;
        let temporary = path.with_extension("tmp");
        write_file(self.disk.as_ref(), &temporary, &output)?;
        rewritten.blocks = Some(Arc::new(blocks));
        rewritten.packed_bytes = Some(output.len() as u64);
        rewritten.is_compacted = true;
        rewritten.is_sealed = true;
        {
            // Who opens the file by its name finds the blocks that are said to be in it.
            let mut state = self.state();
            std::fs::rename(&temporary, &path).map_err(ReplicatorError::disk("rename", &path))?;
            if let Some(segment) = state.segments.get_mut(&first) {
                rewritten.next_sequence = segment.next_sequence;
                rewritten.begins_with_names = segment.begins_with_names;
                *segment = rewritten;
            }
        }
        sync_directory(&self.directory)?;
        Ok(moved)
    }
}
