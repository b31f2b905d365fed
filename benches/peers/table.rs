//! Medians with their spread, and what ours come to beside a yardstick.

use std::fmt;

use crate::column::{Column, Figure};
use crate::row::Row;

/// All values of all cells.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Row>,
    figures: Vec<Figure>,
    values: Vec<(Row, Figure, f64)>,
    /// Cells of which some run gave no value.
    failures: Vec<(Row, Figure)>,
}

/// One cell: the middle one of its values, and the outer ones.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    median: f64,
    min: f64,
    max: f64,
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self {
            median: f64::midpoint(low, high),
            min,
            max,
        })
    }
}

/// What our rows are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Yardstick {
    /// Each with its own.
    Counterpart,
    BestPeer,
    First,
}

impl Yardstick {
    fn of(rows: &[Row]) -> Self {
        if rows.iter().any(|row| row.counterpart().is_some()) {
            Self::Counterpart
        } else if rows.iter().any(Row::is_peer) {
            Self::BestPeer
        } else {
            Self::First
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Counterpart => "ratio to its counterpart",
            Self::BestPeer => "ratio to the best peer",
            Self::First => "ratio to the first",
        }
    }
}

impl Table {
    pub(crate) fn new(rows: &[Row], columns: &[Column]) -> Self {
        Self {
            rows: rows.to_vec(),
            figures: columns
                .iter()
                .flat_map(|column| column.layout())
                .copied()
                .collect(),
            values: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: &Row, figures: &[(Figure, f64)]) {
        let values = figures
            .iter()
            .map(|(figure, value)| (*row, *figure, *value));
        self.values.extend(values);
    }

    pub(crate) fn add_failure(&mut self, row: &Row, column: Column) {
        let cells = column.layout().iter().map(|figure| (*row, *figure));
        self.failures.extend(cells);
    }

    /// A peer that does not stand the load is its row's news; a cell of ours
    /// that fails is a defect.
    pub(crate) fn has_failure_of_ours(&self) -> bool {
        self.failures.iter().any(|(row, _)| !row.is_peer())
    }

    fn has_failed(&self, row: &Row, figure: &Figure) -> bool {
        self.failures.contains(&(*row, *figure))
    }

    fn summary(&self, row: &Row, figure: &Figure) -> Option<Summary> {
        let values = self
            .values
            .iter()
            .filter(|(of_row, of_figure, _)| of_row == row && of_figure == figure)
            .map(|(.., value)| *value);
        Summary::of(values.collect())
    }

    /// The best median of a peer.
    fn best_peer(&self, figure: &Figure) -> Option<f64> {
        let medians = self
            .rows
            .iter()
            .filter(|row| row.is_peer() && !self.has_failed(row, figure))
            .filter_map(|row| self.summary(row, figure))
            .map(|summary| summary.median);
        match figure.is_rate() {
            true => medians.max_by(f64::total_cmp),
            false => medians.min_by(f64::total_cmp),
        }
    }

    fn write_lines(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        rows: impl Iterator<Item = Row>,
        cell: impl Fn(&Row, &Figure) -> Option<String>,
    ) -> fmt::Result {
        write!(f, "| {title} |")?;
        for figure in &self.figures {
            write!(f, " {}, {} |", figure.name, figure.unit)?;
        }
        writeln!(f, "\n|---|{}", "---|".repeat(self.figures.len()))?;
        for row in rows {
            write!(f, "| {} |", row.name())?;
            for figure in &self.figures {
                let text = cell(&row, figure).unwrap_or_else(|| "-".to_owned());
                write!(f, " {text} |")?;
            }
            writeln!(f)?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || self.rows.iter().copied();
        self.write_lines(f, "median (spread)", rows(), |row, figure| {
            if self.has_failed(row, figure) {
                return Some("failed".to_owned());
            }
            let Summary { median, min, max } = self.summary(row, figure)?;
            let digits = figure.digits;
            Some(if min < max {
                format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
            } else {
                format!("{median:.digits$}")
            })
        })?;
        let yardstick = Yardstick::of(&self.rows);
        let compared = rows().filter(|row| match yardstick {
            Yardstick::Counterpart => row.counterpart().is_some(),
            Yardstick::BestPeer | Yardstick::First => row.is_ours(),
        });
        self.write_lines(f, yardstick.title(), compared, |row, figure| {
            let median = |row: &Row| Some(self.summary(row, figure)?.median);
            let measure = match yardstick {
                Yardstick::Counterpart => median(&row.counterpart()?),
                Yardstick::BestPeer => self.best_peer(figure),
                Yardstick::First => median(self.rows.first()?),
            };
            Some(format!("{:.2}", median(row)? / measure?))
        })
    }
}
