//! Numbers, ages and tables as a person reads them.

use std::time::Duration;

use crate::output::Paint;

/// Columns between two columns of a table.
const GAP: &str = "  ";

/// How a cell looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

/// Text of a table's cell.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// Words, to the left.
    pub(crate) fn left(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone: Tone::Plain,
            right: false,
        }
    }

    /// A number, to the right.
    pub(crate) fn right(text: impl ToString) -> Self {
        Self {
            text: text.to_string(),
            tone: Tone::Plain,
            right: true,
        }
    }

    pub(crate) fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// Rows with aligned columns, each row indented by `indent` and without blanks at its end. The first row is the heading.
pub(crate) fn table(indent: &str, rows: &[Vec<Cell>], paint: Paint) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        text.push_str(indent);
        for (column, cell) in row.iter().enumerate() {
            if column > 0 {
                text.push_str(GAP);
            }
            let blanks = " ".repeat(widths[column] - cell.text.chars().count());
            let painted = match cell.tone {
                _ if number == 0 => paint.dim(&cell.text),
                Tone::Plain => cell.text.clone(),
                Tone::Good => paint.green(&cell.text),
                Tone::Doubtful => paint.yellow(&cell.text),
                Tone::Bad => paint.red(&cell.text),
            };
            if cell.right {
                text.push_str(&blanks);
                text.push_str(&painted);
            } else {
                text.push_str(&painted);
                text.push_str(&blanks);
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// As [`table`], and where that is wider than `columns` without as many of the columns headed `dispensable` as it takes, the first
/// one first.
pub(crate) fn table_within(
    indent: &str,
    mut rows: Vec<Vec<Cell>>,
    paint: Paint,
    columns: Option<usize>,
    dispensable: &[&str],
) -> String {
    let mut dispensable = dispensable.iter();
    while columns.is_some_and(|columns| width(indent, &rows) > columns) {
        let Some(heading) = dispensable.next() else {
            break;
        };
        let mut headings = rows.first().into_iter().flatten();
        let Some(column) = headings.position(|cell| cell.text == *heading) else {
            continue;
        };
        for row in &mut rows {
            row.remove(column);
        }
    }
    table(indent, &rows, paint)
}

/// Columns of the longest line of a table.
fn width(indent: &str, rows: &[Vec<Cell>]) -> usize {
    let plain = table(indent, rows, Paint::OFF);
    plain
        .lines()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0)
}

/// Pieces in a row after a label of `label_columns`; further lines begin below the first piece, where a line would be wider than
/// `columns`.
pub(crate) fn labelled(
    label: &str,
    label_columns: usize,
    pieces: &[String],
    columns: Option<usize>,
) -> String {
    let mut text = format!("{label:<label_columns$}");
    let mut width = label_columns;
    for (number, piece) in pieces.iter().enumerate() {
        let piece_columns = piece.chars().count();
        if number > 0 {
            if columns.is_some_and(|most| width + GAP.len() + piece_columns > most) {
                text.push('\n');
                text.push_str(&" ".repeat(label_columns));
                width = label_columns;
            } else {
                text.push_str(GAP);
                width += GAP.len();
            }
        }
        text.push_str(piece);
        width += piece_columns;
    }
    text.push('\n');
    text
}

/// `n thing` or `n things`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

/// `once` or `n times`.
pub(crate) fn times(number: u64) -> String {
    match number {
        1 => "once".to_owned(),
        number => format!("{} times", grouped(number)),
    }
}

/// With a comma at each thousand.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The two largest units of an age: `40 ms`, `3.2 s`, `59 s`, `12 min`, `3 h 12 min`, `5 d 4 h`.
pub(crate) fn age(age: Duration) -> String {
    let millis = age.as_millis();
    let seconds = age.as_secs();
    match seconds {
        0 => format!("{millis} ms"),
        1..10 => format!("{}.{} s", seconds, millis % 1_000 / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Time from `then` to `now`, both in Unix seconds; `-` when `then` is 0, which means never.
pub(crate) fn since(then: u64, now: u64) -> String {
    match then {
        0 => "-".to_owned(),
        _ => whole_seconds(now.saturating_sub(then)),
    }
}

/// As [`age`], for a time known to the second.
pub(crate) fn whole_seconds(seconds: u64) -> String {
    if seconds < 60 {
        format!("{seconds} s")
    } else {
        age(Duration::from_secs(seconds))
    }
}

/// A time in Unix milliseconds as `2026-11-20 12:00:00.123Z`.
pub(crate) fn utc(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(unix_ms);
    evenkeel_log::Utc(time).to_string().replace('T', " ")
}

/// On one line, without control characters, and not longer than `chars_max`: texts of other processes and of servers must
/// not move the cursor.
pub(crate) fn one_line(text: &str, chars_max: usize) -> String {
    let clean = text
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char });
    let short: String = clean.clone().take(chars_max).collect();
    if clean.count() > chars_max {
        let cut: String = short.chars().take(chars_max.saturating_sub(1)).collect();
        format!("{cut}…")
    } else {
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_show_their_two_largest_units() {
        for (millis, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (3_600_000, "1 h 0 min"),
            (90_061_000, "1 d 1 h"),
        ] {
            assert_eq!(age(Duration::from_millis(millis)), expected);
        }
        assert_eq!(since(0, 100), "-");
        assert_eq!(since(97, 100), "3 s");
        assert_eq!(since(200, 100), "0 s", "a clock that went back");
    }

    #[test]
    fn times_are_those_of_date() {
        for (unix, expected) in [
            (0, "1970-01-01 00:00:00.000Z"),
            (951_782_400_007, "2000-02-29 00:00:00.007Z"),
            (1_700_000_000_123, "2023-11-14 22:13:20.123Z"),
            (4_107_542_399_999, "2100-02-28 23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000Z"),
        ] {
            assert_eq!(utc(unix), expected);
        }
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(count(1, "backend"), "1 backend");
        assert_eq!(count(0, "backend"), "0 backends");
    }

    #[test]
    fn columns_align_whatever_their_tone() {
        let rows = [
            vec![Cell::left("name"), Cell::right("n"), Cell::left("why")],
            vec![
                Cell::left("a").tone(Tone::Bad),
                Cell::right(12),
                Cell::left(""),
            ],
        ];
        assert_eq!(table(" ", &rows, Paint::OFF), " name   n  why\n a     12\n");
    }

    #[test]
    fn pieces_stay_whole_and_below_each_other() {
        let pieces = ["1 active", "20 so far", "2xx 19"].map(str::to_owned);
        let lines = |columns| labelled("  in", 6, &pieces, columns);
        assert_eq!(lines(None), "  in  1 active  20 so far  2xx 19\n");
        assert_eq!(lines(Some(33)), "  in  1 active  20 so far  2xx 19\n");
        assert_eq!(lines(Some(32)), "  in  1 active  20 so far\n      2xx 19\n");
        assert_eq!(
            lines(Some(1)),
            "  in  1 active\n      20 so far\n      2xx 19\n"
        );
    }

    #[test]
    fn foreign_text_stays_on_its_line() {
        assert_eq!(one_line("a\x1b[2Jb\nc", 20), "a [2Jb c");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(one_line("abcd", 4), "abcd");
    }
}
