//! Puts the counts of a view in the place of the cell's.

use service_kit::config::CellConfig;

use crate::seam::replay::ReplayRefusal;

/// Swaps the counts of a filled database with those of the cell's. Gives what was done, in words.
///
/// # Errors
/// [`ReplayRefusal::Usage`] where somebody counts, or the view lacks what the cell has; else what failed.
#[cfg(feature = "clickhouse")]
pub(crate) async fn swap_counts(
    config: &CellConfig,
    filled: &str,
    is_confirmed: bool,
) -> Result<Vec<String>, ReplayRefusal> {
    drop((config, filled, is_confirmed));
    Err(ReplayRefusal::Usage("--swap".to_owned()))
}
