//! Which log a directory holds: written once, twice in its file, so that one damaged copy costs
//! nothing.
//!
//! ```text
//! at 0 and at 4096, each 36 bytes, little-endian:
//!   magic "FSPLOGID" | crc32c of what follows u32 | version u32
//!   incarnation u64 | salt u64 | partitions u32
//! ```

use std::io;

use trace_model::Clock;

use super::block::PAGE;
use super::disk::{Disk, DiskFile, read_up_to, write_all_at};
use super::error::OpenError;
use crate::port::LogIdentity;

const FILE: &str = "identity";
const MAGIC: [u8; 8] = *b"FSPLOGID";
const VERSION: u32 = 1;
const COPY_BYTES: usize = 36;

/// What the identity file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) log: LogIdentity,
    /// Secret of this log: see [`super::block::Binding`].
    pub(crate) salt: u64,
}

/// A fault of one of the files that a log cannot do without.
#[derive(Debug)]
pub(crate) enum FileFault {
    Io(io::Error),
    Open(OpenError),
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads the identity; makes one where the directory holds no log yet, above all incarnations that
/// its readers have seen. A log below them is an older copy: its offsets would be given again under
/// an incarnation whose end nobody knows.
pub(crate) fn load_or_create(
    disk: &dyn Disk,
    clock: &dyn Clock,
    has_segments: bool,
    seen: u64,
) -> Result<Identity, FileFault> {
    match disk.open(FILE) {
        Ok(file) => match read(file.as_ref())? {
            identity if identity.log.incarnation < seen => {
                let ours = identity.log.incarnation;
                Err(FileFault::Open(OpenError::Older { ours, seen }))
            }
            identity => Ok(identity),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_segments => {
            Err(damaged("segments without an identity"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(disk, clock, seen),
        Err(error) => Err(error.into()),
    }
}

fn damaged(reason: &'static str) -> FileFault {
    FileFault::Open(OpenError::Damaged { file: FILE.to_owned(), reason })
}

fn create(disk: &dyn Disk, clock: &dyn Clock, seen: u64) -> Result<Identity, FileFault> {
    let salt = getrandom::u64().map_err(io::Error::other)?;
    let above = if seen > 0 { seen.saturating_add(1) } else { 0 };
    let incarnation = clock.now().millis().max(above);
    let identity = Identity { log: LogIdentity { incarnation, partitions: 1 }, salt };
    let copy = encode(&identity);
    let file = disk.create("identity.new")?;
    write_all_at(file.as_ref(), &copy, 0)?;
    write_all_at(file.as_ref(), &copy, PAGE)?;
    file.sync()?;
    disk.rename("identity.new", FILE)?;
    disk.sync_directory()?;
    Ok(identity)
}

fn read(file: &dyn DiskFile) -> Result<Identity, FileFault> {
    let mut newer = None;
    for position in [0, PAGE] {
        let mut copy = [0; COPY_BYTES];
        read_up_to(file, &mut copy, position)?;
        match decode(&copy) {
            Some(Ok(identity)) => return Ok(identity),
            Some(Err(version)) => newer = Some(version),
            None => {}
        }
    }
    Err(newer.map_or_else(
        || damaged("neither of its copies has a good checksum"),
        |found| FileFault::Open(OpenError::Newer { file: FILE.to_owned(), found, known: VERSION }),
    ))
}

fn encode(identity: &Identity) -> Vec<u8> {
    let mut body = VERSION.to_le_bytes().to_vec();
    body.extend_from_slice(&identity.log.incarnation.to_le_bytes());
    body.extend_from_slice(&identity.salt.to_le_bytes());
    body.extend_from_slice(&identity.log.partitions.to_le_bytes());
    let mut copy = MAGIC.to_vec();
    copy.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    copy.extend_from_slice(&body);
    copy
}

/// A good copy's identity, or the version of one that a newer release wrote.
fn decode(copy: &[u8; COPY_BYTES]) -> Option<Result<Identity, u32>> {
    let body = copy.strip_prefix(&MAGIC)?;
    let (checksum, body) = body.split_first_chunk()?;
    let (version, rest) = body.split_first_chunk()?;
    let version = u32::from_le_bytes(*version);
    if u32::from_le_bytes(*checksum) != crc32c::crc32c(body) {
        return None;
    }
    if version > VERSION {
        return Some(Err(version));
    }
    let (incarnation, rest) = rest.split_first_chunk()?;
    let (salt, rest) = rest.split_first_chunk()?;
    let (partitions, _) = rest.split_first_chunk()?;
    let log = LogIdentity {
        incarnation: u64::from_le_bytes(*incarnation),
        partitions: u32::from_le_bytes(*partitions),
    };
    Some(Ok(Identity { log, salt: u64::from_le_bytes(*salt) }))
}
