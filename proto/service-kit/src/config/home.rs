//! Where data is kept when nobody says where. The one place that reads the environment.

use std::path::PathBuf;

/// A directory for `name` that stays the same over restarts: under `$XDG_DATA_HOME`, else under
/// `~/.local/share` (XDG Base Directory Specification), else, where there is no home, under the
/// working directory.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "configuration is read here; the home directory has no other name"
)]
pub fn default_data_dir(name: &str) -> PathBuf {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    data_dir_from(variable("XDG_DATA_HOME"), variable("HOME")).join(name)
}

fn data_dir_from(data_home: Option<String>, home: Option<String>) -> PathBuf {
    let absolute = |text: String| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
    let share = data_home.and_then(absolute);
    let share =
        share.or_else(|| home.and_then(absolute).map(|home| home.join(".local").join("share")));
    share.map_or_else(|| PathBuf::from("farspan-data"), |share| share.join("farspan"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_follows_the_xdg_specification() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(data_dir_from(text("/x"), text("/h")), PathBuf::from("/x/farspan"));
        assert_eq!(data_dir_from(None, text("/h")), PathBuf::from("/h/.local/share/farspan"));
        assert_eq!(data_dir_from(text("relative"), None), PathBuf::from("farspan-data"));
    }
}
