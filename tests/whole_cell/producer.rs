//! Records as an exporter of others writes them: bytes that no line of a console holds, and no keys. Kafka's
//! `Produce`, version 3, by the plainest client there is.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::federation::PATIENCE;
use crate::fixture::now_nanos;
use crate::http::eventually;

/// How long a broker may take, in milliseconds.
const TIMEOUT_MILLIS: u32 = 60_000;
/// A place for nothing.
const NONE_16: [u8; 2] = (-1_i16).to_be_bytes();

/// Writes each of these as a record, to the partitions of a topic in turn. What a broker does not acknowledge is
/// written again.
pub(crate) async fn produce_bytes(
    broker: &str,
    (topic, partitions): (&str, u32),
    values: &[Vec<u8>],
) {
    for partition in 0..partitions {
        let mine = values.iter().zip((0..partitions).cycle());
        let mine = mine.filter(|(_, place)| *place == partition).map(|(value, _)| value.as_slice());
        let mine: Vec<_> = mine.collect();
        if mine.is_empty() {
            continue;
        }
        let request = produce_request((topic, partition), &batch(&mine));
        eventually("a broker has records", PATIENCE, || async {
            let code = ask(broker, topic, &request).await?;
            if code == 0 { Ok(()) } else { Err(format!("{topic} {partition}: error {code}")) }
        })
        .await;
    }
}

fn size(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_be_bytes()
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

fn produce_request((topic, partition): (&str, u32), batch: &[u8]) -> Vec<u8> {
    [
        // Key, version, correlation, client; no transaction, all replicas.
        &[0, 0, 0, 3, 0, 0, 0, 7][..],
        &NONE_16,
        &NONE_16,
        &NONE_16,
        &TIMEOUT_MILLIS.to_be_bytes(),
        // One topic, one partition of it.
        &1_u32.to_be_bytes(),
        &text(topic),
        &1_u32.to_be_bytes(),
        &partition.to_be_bytes(),
        &size(batch),
        batch,
    ]
    .concat()
}

/// The broker's word: 0, or an error.
async fn ask(broker: &str, topic: &str, request: &[u8]) -> Result<i16, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(broker).await.map_err(failed)?;
    stream.write_all(&size(request)).await.map_err(failed)?;
    stream.write_all(request).await.map_err(failed)?;
    let length = stream.read_u32().await.map_err(failed)?;
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    // Correlation, topics, the topic, partitions, the partition.
    let code = answer.get(4 + 4 + 2 + topic.len() + 4 + 4..);
    let code = code.and_then(|rest| rest.first_chunk::<2>()).ok_or("a short answer")?;
    Ok(i16::from_be_bytes(*code))
}

/// Records as brokers keep them, in format 2.
fn batch(values: &[&[u8]]) -> Vec<u8> {
    let millis = (now_nanos() / 1_000_000).to_be_bytes();
    let last = u32::try_from(values.len() - 1).unwrap();
    let mut checked = vec![0, 0];
    checked.extend(last.to_be_bytes());
    checked.extend([millis, millis].concat());
    // No producer, epoch and sequence.
    checked.extend([0xff; 8 + 2 + 4]);
    checked.extend((last + 1).to_be_bytes());
    for (place, value) in (0..).zip(values) {
        // No attributes, at the time of the batch, no key; no headers.
        let mut record = vec![0, 0];
        put(&mut record, place);
        put(&mut record, -1);
        put(&mut record, i64::try_from(value.len()).unwrap());
        record.extend_from_slice(value);
        put(&mut record, 0);
        put(&mut checked, i64::try_from(record.len()).unwrap());
        checked.extend(record);
    }
    let sum = crc32c(&checked).to_be_bytes();
    // No leader's epoch, and the format.
    let rest = [&[0xff; 4][..], &[2], &sum, &checked].concat();
    [&[0; 8][..], &size(&rest), &rest].concat()
}

/// A number as records have it.
fn put(bytes: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while let more @ 0x80.. = rest {
        bytes.push(more.to_le_bytes()[0] | 0x80);
        rest = more >> 7;
    }
    bytes.push(rest.to_le_bytes()[0]);
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg());
    let take = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum));
    !bytes.iter().fold(!0, take)
}
