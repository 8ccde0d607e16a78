//! The chunks of a block: its core, and compressing what is worth it.

use proto::wire::put_varint;
use rustc_hash::FxHashMap;

use super::{BlockEncoder, Source};
use crate::embedded::cursor::put_sized;
use crate::embedded::numbers;

/// Chunks smaller than this are stored as they are.
const COMPRESS_BYTES_MIN: usize = 48;

impl BlockEncoder {
    /// Tokens, templates, and what every row has.
    pub(super) fn encode_core(&self, output: &mut Vec<u8>) {
        let core = &self.core;
        output.push(u8::from(core.is_unreadable));
        put_varint(output, self.used.len() as u64);
        let mut numbers_of: FxHashMap<u32, u64> = FxHashMap::default();
        for (number, token) in self.used.iter().enumerate() {
            numbers_of.insert(*token, number as u64);
            if let Some(token) = self.tokens.token(*token) {
                output.extend_from_slice(&[token.tag.code as u8, token.tag.argument]);
                put_sized(output, &token.key);
            }
        }
        put_varint(output, self.templates.len() as u64);
        for template in &self.templates {
            let tokens = self.tokens.tokens_of(*template);
            put_varint(output, tokens.len() as u64);
            for token in tokens {
                put_varint(output, numbers_of.get(&token).copied().unwrap_or(0));
            }
        }
        for column in [
            &core.trace_rows,
            &core.trace_starts,
            &core.templates,
            &core.starts,
            &core.durations,
            &core.contexts,
            &core.sources,
        ] {
            numbers::encode(column, output);
        }
        encode_sources(&core.source_table, output);
    }
}

fn encode_sources(sources: &[Source], output: &mut Vec<u8>) {
    let times: Vec<u64> = sources.iter().map(|source| source.envelope.receive_time.0).collect();
    let thresholds: Vec<u64> = sources.iter().map(|source| source.threshold.to_bits()).collect();
    let mut names: Vec<(&str, &str)> = Vec::new();
    let mut places = Vec::with_capacity(sources.len());
    for source in sources {
        let name = (source.envelope.region.as_str(), source.envelope.collector.as_ref());
        let place = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        places.push(place as u64);
    }
    numbers::encode(&times, output);
    numbers::encode(&thresholds, output);
    numbers::encode(&places, output);
    put_varint(output, names.len() as u64);
    for (region, collector) in names {
        put_sized(output, region.as_bytes());
        put_sized(output, collector.as_bytes());
    }
}

pub(super) fn put_chunk(
    compressor: &mut zstd::bulk::Compressor<'static>,
    chunk: &[u8],
    directory: &mut Vec<u8>,
    body: &mut Vec<u8>,
) -> std::io::Result<()> {
    if chunk.len() >= COMPRESS_BYTES_MIN {
        let compressed = compressor.compress(chunk)?;
        if compressed.len() + compressed.len() / 16 < chunk.len() {
            put_varint(directory, compressed.len() as u64);
            put_varint(directory, chunk.len() as u64);
            body.extend_from_slice(&compressed);
            return Ok(());
        }
    }
    put_stored(chunk, directory, body);
    Ok(())
}

pub(super) fn put_stored(chunk: &[u8], directory: &mut Vec<u8>, body: &mut Vec<u8>) {
    put_varint(directory, chunk.len() as u64);
    put_varint(directory, 0);
    body.extend_from_slice(chunk);
}
