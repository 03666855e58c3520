//! Bars and lines as SVG elements.

use std::fmt::Write as _;

/// Room around a plot for titles and the figures at its axes.
const LEFT: f64 = 46.0;
const RIGHT: f64 = 54.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 52.0;

/// From one line's last figure to the next one's.
const LABEL: f64 = 14.0;

/// Values further apart than this are drawn on a logarithmic scale.
const SPREAD: f64 = 30.0;

#[derive(Debug)]
pub(crate) enum Chart {
    Bars(Bars),
    Lines(Lines),
}

/// Groups of bars from a common zero.
#[derive(Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) groups: Vec<Group>,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) label: String,
    /// Colour, value, what stands above it and what stands below.
    pub(crate) bars: Vec<(&'static str, f64, String, String)>,
    /// Where the first bar should end at most.
    pub(crate) target: Option<(f64, String)>,
}

/// One line a peer over the same points, which are as far from each other as the next.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) axis: String,
    pub(crate) points: Vec<u32>,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) colour: &'static str,
    /// As many as there are points; none where nothing was measured.
    pub(crate) values: Vec<Option<f64>>,
}

/// A chart with its upper left corner at `at`.
pub(crate) fn draw(chart: &Chart, at: (f64, f64), size: (f64, f64)) -> String {
    let inner = match chart {
        Chart::Bars(bars) => draw_bars(bars, size),
        Chart::Lines(lines) => draw_lines(lines, size),
    };
    format!(
        "<g transform=\"translate({:.1} {:.1})\">\n{inner}</g>\n",
        at.0, at.1
    )
}

/// At most four figures, with thousands as `k` and millions as `M`.
pub(crate) fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 10_000.0 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let text = if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// For text in the SVG.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// From values to pixels.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    top: f64,
    bottom: f64,
    ticks: Vec<f64>,
}

impl Scale {
    fn new(
        values: impl Iterator<Item = f64> + Clone,
        may_be_logarithmic: bool,
        height: f64,
    ) -> Self {
        let most = values.clone().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let least = values.filter(|value| *value > 0.0).fold(most, f64::min);
        let logarithmic = may_be_logarithmic && most / least > SPREAD;
        let (low, high, ticks) = if logarithmic {
            let (low, high) = (least.log10().floor(), most.log10().ceil());
            let decades = std::iter::successors(Some(low), |t| Some(t + 1.0));
            let ticks = decades.take_while(|t| *t <= high).map(|t| 10f64.powf(t));
            (low, high, ticks.collect())
        } else {
            let rough = most * 1.05 / 4.0;
            let decade = 10f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 2.5, 5.0, 10.0]
                .into_iter()
                .map(|factor| factor * decade)
                .find(|step| *step >= rough)
                .unwrap_or(10.0 * decade);
            let ticks: Vec<f64> = [0.0, 1.0, 2.0, 3.0, 4.0]
                .into_iter()
                .map(|number| number * step)
                .filter(|tick| *tick < most * 1.05 + step)
                .collect();
            (0.0, ticks.last().copied().unwrap_or(step), ticks)
        };
        Self {
            low,
            high,
            logarithmic,
            top: TOP,
            bottom: height - BOTTOM,
            ticks,
        }
    }

    fn y(&self, value: f64) -> f64 {
        let value = if self.logarithmic {
            value.max(f64::MIN_POSITIVE).log10()
        } else {
            value
        };
        let share = (value - self.low) / (self.high - self.low);
        self.bottom - share.clamp(0.0, 1.0) * (self.bottom - self.top)
    }

    /// Title, grid and the figures beside it.
    fn frame(&self, title: &str, subtitle: &str, width: f64) -> String {
        let scale = if self.logarithmic {
            "; logarithmic scale"
        } else {
            ""
        };
        let mut text = format!(
            "<text x=\"0\" y=\"14\" font-size=\"15\" font-weight=\"600\" fill=\"#111\">{}</text>\n\
             <text x=\"0\" y=\"32\" fill=\"#666\">{}{scale}</text>\n",
            escape(title),
            escape(subtitle)
        );
        for tick in &self.ticks {
            let y = self.y(*tick);
            let colour = if y >= self.bottom - 0.1 {
                "#999"
            } else {
                "#e4e4e4"
            };
            writeln!(
                text,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{}</text>",
                width,
                LEFT - 8.0,
                y + 4.0,
                short(*tick)
            )
            .unwrap();
        }
        text
    }
}

fn draw_bars(bars: &Bars, (width, height): (f64, f64)) -> String {
    let values = bars.groups.iter().flat_map(|group| {
        let targets = group.target.iter().map(|(limit, _)| *limit);
        group.bars.iter().map(|bar| bar.1).chain(targets)
    });
    let scale = Scale::new(values, false, height);
    let mut text = scale.frame(&bars.title, &bars.subtitle, width);
    let step = (width - LEFT) / count(bars.groups.len());
    let mut left = LEFT;
    for group in &bars.groups {
        let bar = (step * 0.8 / count(group.bars.len())).min(74.0);
        let used = bar * count(group.bars.len());
        let begin = left + (step - used) / 2.0;
        let mut x = begin;
        let limit = group.target.as_ref().map(|(limit, _)| scale.y(*limit));
        for (index, (colour, value, above, below)) in group.bars.iter().enumerate() {
            let y = scale.y(*value);
            // Not where the first bar's target is drawn through it.
            let label = match limit {
                Some(limit) if index == 0 && (y - LABEL - 8.0..y).contains(&limit) => limit - 6.0,
                _ => y - 6.0,
            };
            let middle = x + bar / 2.0;
            writeln!(
                text,
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
                 <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-weight=\"600\">{above}</text>\
                 <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#666\">{below}</text>",
                x + 3.0,
                bar - 6.0,
                scale.bottom - y,
                label,
                scale.bottom + 15.0,
            )
            .unwrap();
            x += bar;
        }
        let mut under = scale.bottom + 32.0;
        if !group.label.is_empty() {
            writeln!(
                text,
                "<text x=\"{:.1}\" y=\"{under:.1}\" text-anchor=\"middle\" font-weight=\"600\">{}</text>",
                left + step / 2.0,
                escape(&group.label)
            )
            .unwrap();
            under += 16.0;
        }
        if let Some((limit, label)) = &group.target {
            let y = scale.y(*limit);
            // White below it, so that it is seen on the bar too.
            writeln!(
                text,
                "<line x1=\"{0:.1}\" y1=\"{y:.1}\" x2=\"{1:.1}\" y2=\"{y:.1}\" stroke=\"#fff\" stroke-width=\"4\"/>\
                 <line x1=\"{0:.1}\" y1=\"{y:.1}\" x2=\"{1:.1}\" y2=\"{y:.1}\" stroke=\"#c2185b\" stroke-width=\"2\"/>\
                 <text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#c2185b\">{label}</text>",
                begin - 6.0,
                begin + bar + 1.0,
                left + step / 2.0,
                under,
            )
            .unwrap();
        }
        left += step;
    }
    text
}

fn draw_lines(lines: &Lines, (width, height): (f64, f64)) -> String {
    let values = lines
        .lines
        .iter()
        .flat_map(|line| line.values.iter().copied().flatten());
    let scale = Scale::new(values, true, height);
    let mut text = scale.frame(&lines.title, &lines.subtitle, width - RIGHT);
    let step = (width - LEFT - RIGHT) / count(lines.points.len());
    let x = |index: usize| LEFT + step * (count(index + 1) - 0.5);
    for (index, point) in lines.points.iter().enumerate() {
        writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{point}</text>",
            x(index),
            scale.bottom + 17.0
        )
        .unwrap();
    }
    writeln!(
        text,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
        LEFT + (width - LEFT - RIGHT) / 2.0,
        scale.bottom + 35.0,
        escape(&lines.axis)
    )
    .unwrap();
    let mut labels = Vec::new();
    // The first peer is drawn last, and so above the others.
    for line in lines.lines.iter().rev() {
        let spots: Vec<(f64, f64, f64)> = line
            .values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| Some((x(index), scale.y((*value)?), (*value)?)))
            .collect();
        let path: Vec<String> = spots
            .iter()
            .map(|(x, y, _)| format!("{x:.1},{y:.1}"))
            .collect();
        writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2.5\" stroke-linejoin=\"round\"/>",
            path.join(" "),
            line.colour
        )
        .unwrap();
        for (x, y, _) in &spots {
            writeln!(
                text,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{}\" stroke=\"#fff\" stroke-width=\"1.5\"/>",
                line.colour
            )
            .unwrap();
        }
        if let Some((x, y, value)) = spots.last() {
            labels.push((*y, *x, short(*value), line.colour));
        }
    }
    text.push_str(&place(labels));
    text
}

/// The last figure of each line beside it, moved apart where they would cover each other.
fn place(mut labels: Vec<(f64, f64, String, &'static str)>) -> String {
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    for index in 1..labels.len() {
        let overlap = LABEL - (labels[index].0 - labels[index - 1].0);
        if overlap > 0.0 {
            labels[index].0 += overlap / 2.0;
            for earlier in &mut labels[..index] {
                earlier.0 -= overlap / 2.0;
            }
        }
    }
    let mut text = String::new();
    for (y, x, label, colour) in labels {
        writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-weight=\"600\" fill=\"{colour}\">{label}</text>",
            x + 10.0,
            y + 4.0
        )
        .unwrap();
    }
    text
}

/// A count of bars, points or letters; at least 1.
pub(crate) fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number.max(1)).unwrap_or(u32::MAX))
}
