//! Where a command writes: standard output, with or without colours, as wide as the terminal.

use std::io::{IsTerminal, Write};

use crossterm::style::{Color, Stylize};

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Columns where nothing says otherwise.
const WIDTH_DEFAULT: usize = 120;
/// Narrower than this, a table makes no sense.
const WIDTH_MIN: usize = 40;

/// Where a command writes.
pub(crate) struct Output {
    writer: Box<dyn Write + Send>,
    /// Columns.
    pub(crate) width: usize,
    /// Where a line is cut: at the width of a person's terminal, or the one that was asked for; what
    /// a pipe takes is whole.
    pub(crate) cut_at: usize,
    /// Whether the answer is wanted as JSON.
    pub(crate) is_json: bool,
    /// Whether a person watches.
    pub(crate) is_terminal: bool,
    is_colored: bool,
}

impl Output {
    /// To standard output.
    pub(crate) fn to_stdout(color: ColorChoice, width: Option<usize>, is_json: bool) -> Self {
        let stdout = std::io::stdout();
        let is_terminal = stdout.is_terminal();
        let measured = if is_terminal { crossterm::terminal::size().ok() } else { None };
        let measured = measured.map(|(columns, _)| usize::from(columns));
        let is_cut = is_terminal || width.is_some();
        let width = width.or(measured).unwrap_or(WIDTH_DEFAULT).max(WIDTH_MIN);
        Self {
            writer: Box::new(stdout),
            width,
            cut_at: if is_cut { width } else { usize::MAX },
            is_json,
            is_terminal,
            is_colored: match color {
                ColorChoice::Auto => is_terminal,
                ColorChoice::Always => true,
                ColorChoice::Never => false,
            },
        }
    }

    /// To a buffer, without colours, as wide as by default.
    #[cfg(test)]
    pub(crate) fn to_buffer(is_json: bool) -> (Self, Buffer) {
        let buffer = Buffer::default();
        let output = Self {
            writer: Box::new(buffer.clone()),
            width: WIDTH_DEFAULT,
            cut_at: usize::MAX,
            is_json,
            is_terminal: false,
            is_colored: false,
        };
        (output, buffer)
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: &str) -> std::io::Result<()> {
        writeln!(self.writer, "{text}")
    }

    /// Writes as it is.
    pub(crate) fn raw(&mut self, text: &str) -> std::io::Result<()> {
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }

    /// The brush for this output.
    pub(crate) const fn paint(&self) -> Paint {
        Paint { is_colored: self.is_colored }
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Output").field("width", &self.width).finish_non_exhaustive()
    }
}

/// What was written, for tests.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl Buffer {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[cfg(test)]
impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    is_colored: bool,
}

impl Paint {
    /// Plain text.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { is_colored: false }
    }

    /// Always in colour.
    #[cfg(test)]
    pub(crate) const fn colored() -> Self {
        Self { is_colored: true }
    }

    /// Something is wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.color(text, Color::Red)
    }

    /// Something is right.
    pub(crate) fn good(self, text: &str) -> String {
        self.color(text, Color::Green)
    }

    /// Something deserves a look.
    pub(crate) fn warn(self, text: &str) -> String {
        self.color(text, Color::Yellow)
    }

    /// Something is aside.
    pub(crate) fn dim(self, text: &str) -> String {
        self.color(text, Color::DarkGrey)
    }

    /// The n-th of several alike.
    pub(crate) fn nth(self, text: &str, index: usize) -> String {
        const COLORS: [Color; 6] = [
            Color::Cyan,
            Color::Magenta,
            Color::Blue,
            Color::Yellow,
            Color::Green,
            Color::DarkCyan,
        ];
        let color = COLORS.get(index % COLORS.len()).copied().unwrap_or(Color::Cyan);
        self.color(text, color)
    }

    fn color(self, text: &str, color: Color) -> String {
        if self.is_colored { text.with(color).to_string() } else { text.to_owned() }
    }
}
