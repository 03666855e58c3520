//! The view as a screen below what was printed before: drawn in place, so that the addresses above stay in sight.

use std::io::{self, Stdout, stdout};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

use crate::demo::daemon::Log;
use crate::demo::servers::Servers;
use crate::demo::view::View;
use crate::status_screen::tone_of;
use crate::text::{self, Tone};

/// Workers that are shown; the others are summed up in a line.
const WORKERS_MAX: usize = 12;

/// Lines of the daemon's log; fewer on a low terminal.
const LOG_LINES: u16 = 5;
const LOG_LINES_MIN: u16 = 1;

/// Columns of both tables before the last, and blanks between columns.
const COLUMNS: [u16; 5] = [10, 8, 11, 12, 8];
const COLUMN_GAP: u16 = 2;

/// Cells of a full bar; fewer on a narrow terminal.
const BAR_CELLS: u16 = 24;

/// Cells of the percentage before a bar.
const PERCENT_CELLS: u16 = 6;

pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

/// Whether `q` or Ctrl-C was pressed since the last call; in raw mode Ctrl-C is a key and no signal.
pub(super) fn quit_pressed() -> bool {
    while matches!(event::poll(Duration::ZERO), Ok(true)) {
        let Ok(event) = event::read() else {
            return false;
        };
        if let Event::Key(key) = event
            && key.kind == KeyEventKind::Press
        {
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('q' | 'Q') => return true,
                KeyCode::Char('c') if control => return true,
                _ => {}
            }
        }
    }
    false
}

impl Screen {
    /// Takes the terminal, below the `lines_above` that were printed; it is given back on drop.
    pub(super) fn open(workers: usize, backends: usize, lines_above: usize) -> io::Result<Self> {
        let (_, rows) = crossterm::terminal::size()?;
        let above = u16::try_from(lines_above).unwrap_or(u16::MAX);
        let heights = Heights::of(workers, backends);
        let least = heights.all(LOG_LINES_MIN);
        let height = rows
            .saturating_sub(above)
            .clamp(least, heights.all(LOG_LINES));
        enable_raw_mode()?;
        let options = TerminalOptions {
            viewport: Viewport::Inline(height),
        };
        match Terminal::with_options(CrosstermBackend::new(stdout()), options) {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                disable_raw_mode()?;
                Err(error)
            }
        }
    }

    pub(super) fn draw(&mut self, view: &View, servers: &Servers, log: &Log) -> io::Result<()> {
        self.terminal
            .draw(|frame| draw(frame, view, servers, log))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The last picture stays; what is printed next goes below it. There is nobody to tell when this fails.
        let bottom = self.terminal.get_frame().area().bottom().saturating_sub(1);
        self.terminal.set_cursor_position((0, bottom)).unwrap_or(());
        self.terminal.show_cursor().unwrap_or(());
        disable_raw_mode().unwrap_or(());
        crate::output::print("\n").unwrap_or(());
    }
}

/// Rows of the screen's parts.
struct Heights {
    backends: u16,
    workers: u16,
}

impl Heights {
    fn of(workers: usize, backends: usize) -> Self {
        let rows = |number: usize| u16::try_from(number).unwrap_or(u16::MAX / 4);
        let more = usize::from(workers > WORKERS_MAX);
        Self {
            backends: rows(backends) + 1,
            workers: rows(workers.min(WORKERS_MAX) + more) + 1,
        }
    }

    /// Title, two tables, log, keys, and blank lines between.
    fn all(&self, log_lines: u16) -> u16 {
        1 + 1 + self.backends + 1 + self.workers + 1 + log_lines + 1
    }
}

fn draw(frame: &mut Frame<'_>, view: &View, servers: &Servers, log: &Log) {
    let heights = Heights::of(view.status.workers.len(), view.backends().len());
    let [title, _, backends, _, workers, _, lines, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(heights.backends),
        Constraint::Length(1),
        Constraint::Length(heights.workers),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(title_line(view), title);
    let fixed: u16 = COLUMNS.iter().map(|column| column + COLUMN_GAP).sum();
    let bar_cells = backends
        .width
        .saturating_sub(fixed + PERCENT_CELLS)
        .min(BAR_CELLS);
    frame.render_widget(backend_table(view, servers, bar_cells), backends);
    frame.render_widget(worker_table(view), workers);
    let shown: Vec<Line<'_>> = log
        .tail(lines.height.into())
        .map(|line| Line::styled(without_date(line), faint()))
        .collect();
    frame.render_widget(Paragraph::new(shown), lines);
    frame.render_widget(Line::styled("q: quit", faint()), keys);
}

fn title_line(view: &View) -> Line<'static> {
    let status = &view.status;
    let seconds = view.started.elapsed().as_secs();
    Line::from(vec![
        Span::styled(
            format!("http://{}/", view.address()),
            Style::new().add_modifier(Modifier::BOLD),
        ),
        Span::raw(format!(
            "  {}  {}, {:.0}/s  for {}",
            status.phase,
            text::count(view.accepted(), "connection"),
            view.rate,
            text::whole_seconds(seconds)
        )),
    ])
}

fn backend_table(view: &View, servers: &Servers, bar_cells: u16) -> Table<'static> {
    let rows = view.backends().iter().map(|backend| {
        let permille = view.permille(backend);
        let pid = servers
            .pid(&backend.name)
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        Row::new(vec![
            Line::raw(backend.name.clone()),
            Line::raw(pid).right_aligned(),
            Line::styled(backend.state.clone(), style(&backend.state)),
            Line::raw(text::grouped(backend.connections)).right_aligned(),
            Line::raw(text::grouped(backend.active)).right_aligned(),
            Line::raw(format!(
                "{:>2} % {}",
                (permille + 5) / 10,
                bar(permille, bar_cells)
            )),
        ])
    });
    Table::new(rows, columns())
        .column_spacing(COLUMN_GAP)
        .header(heading([
            ("SERVER", false),
            ("PID", true),
            ("STATE", false),
            ("CONNECTIONS", true),
            ("ACTIVE", true),
            ("SHARE", false),
        ]))
}

fn worker_table(view: &View) -> Table<'static> {
    let workers = &view.status.workers;
    let mut rows: Vec<Row<'static>> = workers
        .iter()
        .take(WORKERS_MAX)
        .map(|worker| {
            let pid = match worker.pid {
                0 => "-".to_owned(),
                pid => pid.to_string(),
            };
            Row::new(vec![
                Line::raw(format!("worker {}", worker.slot)),
                Line::raw(pid).right_aligned(),
                Line::styled(worker.state.clone(), style(&worker.state)),
                Line::raw(text::grouped(worker.accepted)).right_aligned(),
                Line::raw(text::grouped(worker.active)).right_aligned(),
                Line::raw(text::grouped(worker.crashes)),
            ])
        })
        .collect();
    if workers.len() > WORKERS_MAX {
        let rest = &workers[WORKERS_MAX..];
        let accepted = rest.iter().map(|worker| worker.accepted).sum();
        let active = rest.iter().map(|worker| worker.active).sum();
        rows.push(Row::new(vec![
            Line::raw(format!("{} more", rest.len())),
            Line::default(),
            Line::default(),
            Line::raw(text::grouped(accepted)).right_aligned(),
            Line::raw(text::grouped(active)).right_aligned(),
            Line::default(),
        ]));
    }
    Table::new(rows, columns())
        .column_spacing(COLUMN_GAP)
        .header(heading([
            ("WORKER", false),
            ("PID", true),
            ("STATE", false),
            ("ACCEPTED", true),
            ("ACTIVE", true),
            ("CRASHES", false),
        ]))
}

/// A log line from its time of day on: the day is known, and a terminal is narrow.
fn without_date(line: &str) -> &str {
    match line.split_once('T') {
        Some((date, rest)) if date.len() == 10 && date.starts_with('2') => rest,
        _ => line,
    }
}

/// The fixed columns, and what is left for the last.
fn columns() -> impl Iterator<Item = Constraint> {
    let fixed = COLUMNS.into_iter().map(Constraint::Length);
    fixed.chain([Constraint::Min(PERCENT_CELLS)])
}

/// Words, and whether the column is of numbers.
fn heading<const COLUMNS: usize>(columns: [(&'static str, bool); COLUMNS]) -> Row<'static> {
    Row::new(columns.map(|(word, right)| {
        let line = Line::raw(word);
        if right { line.right_aligned() } else { line }
    }))
    .style(faint())
}

fn bar(permille: u64, full: u16) -> String {
    let full = u64::from(full);
    let cells = (permille * full).div_ceil(1_000).min(full);
    "█".repeat(usize::try_from(cells).unwrap_or(0))
}

fn style(state: &str) -> Style {
    match tone_of(state) {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Doubtful => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

fn faint() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}
