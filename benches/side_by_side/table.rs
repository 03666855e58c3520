//! The tables that are printed: they are Markdown too.

use std::fmt::Write as _;

use crate::peers::Kind;
use crate::results::{Results, SERIES, Series};

/// One table for all series with the same columns.
pub(crate) fn render(results: &Results) -> String {
    let mut text = String::new();
    let mut rest: Vec<&Series> = SERIES
        .iter()
        .filter(|series| !results.points(series.name).is_empty())
        .collect();
    while let Some(first) = rest.first().copied() {
        let alike = |series: &&Series| series.columns == first.columns && series.axis == first.axis;
        let group: Vec<&Series> = rest.iter().copied().filter(alike).collect();
        rest.retain(|series| !alike(series));
        text.push_str(&table(&group, results));
        text.push('\n');
    }
    for note in &results.notes {
        writeln!(text, "note: {note}").unwrap();
    }
    text
}

fn table(group: &[&Series], results: &Results) -> String {
    let first = group[0];
    let mut heads: Vec<String> = vec!["work".to_owned()];
    heads.extend(first.axis.map(str::to_owned));
    heads.push("peer".to_owned());
    heads.extend(first.columns.iter().map(|c| c.heading.to_owned()));
    let what = first.columns.iter().find(|c| c.figure == first.cost);
    let what = what.map_or(first.cost, |column| column.heading);
    heads.push(format!("{what}: of haproxy"));
    heads.extend(["of nginx", "of better"].map(str::to_owned));
    let targets = group.iter().any(|series| series.target.is_some());
    heads.extend(targets.then(|| "target".to_owned()));
    let mut rows = vec![heads];
    for series in group {
        for at in results.points(series.name) {
            for kind in Kind::ALL {
                rows.extend(row(series, at, kind, targets, results));
            }
        }
    }
    align(&rows)
}

fn row(
    series: &Series,
    at: u32,
    kind: Kind,
    targets: bool,
    results: &Results,
) -> Option<Vec<String>> {
    results.median(series.name, at, kind, series.cost)?;
    let mut row = vec![series.name.to_owned()];
    row.extend(series.axis.map(|_| at.to_string()));
    row.push(kind.name().to_owned());
    for column in series.columns {
        let value = results.median(series.name, at, kind, column.figure);
        row.push(value.map_or_else(String::new, |v| format!("{v:.*}", column.decimals)));
    }
    for peer in [Some(Kind::Haproxy), Some(Kind::Nginx), None] {
        let ratio = results
            .ratio(series, at, peer)
            .filter(|_| kind == Kind::Evenkeel);
        row.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
    }
    if targets {
        let verdicts = if kind == Kind::Evenkeel {
            results.verdicts(series, at)
        } else {
            Vec::new()
        };
        let verdicts: Vec<String> = verdicts
            .into_iter()
            .map(|(met, target)| format!("{target}: {}", if met { "met" } else { "missed" }))
            .collect();
        row.push(verdicts.join("; "));
    }
    Some(row)
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    // Words to the left, figures to the right.
    let words = |column: usize| {
        rows.iter()
            .skip(1)
            .any(|row| row[column].starts_with(|c: char| c.is_alphabetic()))
    };
    let words: Vec<bool> = (0..columns).map(words).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if words[column] {
                write!(text, "| {cell:<width$} ").unwrap();
            } else {
                write!(text, "| {cell:>width$} ").unwrap();
            }
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let (dashes, end) = if words[column] {
                    (width + 2, "")
                } else {
                    (width + 1, ":")
                };
                write!(text, "|{}{end}", "-".repeat(dashes)).unwrap();
            }
            text.push_str("|\n");
        }
    }
    text
}
