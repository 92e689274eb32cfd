//! Plain-text tables: columns two spaces apart, no lines, the same on a board and on a PC.
//!
//! Rejected: a table crate. The device build would carry it for two commands.

/// Which side a column's cells keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows below a heading.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With the heading of each column.
    pub fn new<const N: usize>(columns: [(&str, Align); N]) -> Self {
        Self {
            columns: columns.iter().map(|(_, align)| *align).collect(),
            rows: vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()],
        }
    }

    /// Adds a row. Missing cells stay empty; control characters, which another's words may hold, are replaced.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.rows.push(cells.into_iter().take(self.columns.len()).map(|cell| plain(cell.as_ref())).collect());
        self
    }

    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (i, (align, width)) in self.columns.iter().zip(&widths).enumerate() {
                let cell = row.get(i).map_or("", String::as_str);
                let gap = if i == 0 { "" } else { "  " };
                match align {
                    Align::Left => line += &format!("{gap}{cell:width$}"),
                    Align::Right => line += &format!("{gap}{cell:>width$}"),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Text of another's making on one line of a terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Bytes as people read them.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_hostile_cells_stay_on_their_line() {
        let mut table = Table::new([("kind", Align::Left), ("bytes", Align::Right)]);
        table.row(["status", "7"]).row(["\x1b[2Jµ\n", "12345"]);
        assert_eq!(table.to_string(), "kind    bytes\nstatus      7\n\u{fffd}[2Jµ\u{fffd}  12345\n");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(5 << 40)], ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]);
    }
}
