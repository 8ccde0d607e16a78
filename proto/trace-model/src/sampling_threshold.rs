//! Consistent probability sampling by a threshold on the trace id's low 56 bits (OpenTelemetry,
//! *TraceState: probability sampling*, `ot=th`): decisions of all regions nest.

use crate::ids::TraceId;

/// 2^56: one more than the largest randomness value.
const RANDOMNESS_SPAN: u64 = 1 << 56;

/// A rejection threshold: traces whose randomness is at or above it are kept. 0 keeps all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threshold(u64);

/// A rate that is not a probability.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a sampling rate of {0}: it must lie between 0 and 1")]
pub struct InvalidRate(pub f64);

impl Threshold {
    /// Keeps every trace.
    pub const KEEP_ALL: Self = Self(0);

    /// The threshold that keeps this share of traces; 0 keeps none.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the rate is checked to lie in 0..=1, so the product lies in 0..=2^56"
    )]
    pub fn from_rate(rate: f64) -> Result<Self, InvalidRate> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(InvalidRate(rate));
        }
        Ok(Self(((1.0 - rate) * RANDOMNESS_SPAN as f64).round() as u64))
    }

    /// From the stored number; values above 2^56 keep none.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits.min(RANDOMNESS_SPAN))
    }

    /// The number to store.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether the trace is kept.
    #[must_use]
    pub fn keeps(self, trace_id: TraceId) -> bool {
        randomness(trace_id) >= self.0
    }

    /// How many traces each kept one stands for: 1/p. 0 where none is kept.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "56 bits; the loss is below 1e-15")]
    pub fn adjusted_count(self) -> f64 {
        let kept = RANDOMNESS_SPAN.saturating_sub(self.0);
        if kept == 0 {
            return 0.0;
        }
        RANDOMNESS_SPAN as f64 / kept as f64
    }
}

/// The low 56 bits of the trace id (W3C Trace Context level 2, *random trace id*).
fn randomness(trace_id: TraceId) -> u64 {
    let value =
        u128::from_be_bytes(*trace_id.as_bytes()) & u128::from(RANDOMNESS_SPAN.saturating_sub(1));
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_nest_and_count_what_they_stand_for() {
        let tenth = Threshold::from_rate(0.1).unwrap();
        let half = Threshold::from_rate(0.5).unwrap();
        let mut kept = 0_u32;
        for seed in 1_u64..20_000 {
            let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut bytes = [1_u8; 16];
            bytes[8..].copy_from_slice(&mixed.to_be_bytes());
            let id = TraceId::from_bytes(bytes).unwrap();
            assert!(!tenth.keeps(id) || half.keeps(id));
            kept += u32::from(tenth.keeps(id));
        }
        assert!((1_800..2_200).contains(&kept), "{kept}");
        assert!((tenth.adjusted_count() - 10.0).abs() < 1e-9);
        assert!((Threshold::KEEP_ALL.adjusted_count() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_rate_of_zero_keeps_none_and_one_keeps_all() {
        let id = TraceId::from_bytes([0xff; 16]).unwrap();
        assert!(!Threshold::from_rate(0.0).unwrap().keeps(id));
        assert!(Threshold::from_rate(1.0).unwrap().keeps(id));
        assert!(Threshold::from_rate(1.5).is_err());
        assert!(Threshold::from_rate(f64::NAN).is_err());
    }
}
