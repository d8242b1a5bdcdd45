//! Lines over a common axis, each with a band around it if there is one.

use super::{
    Chart,
    axis::{Axis, Scale},
    canvas::{Canvas, Drawn, Point},
    drawable,
    frame::Frame,
    mark::Mark,
    some_series,
};
use crate::{Error, Result};

/// A chart of lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    pub title: String,
    /// What the horizontal axis shows, with its unit.
    pub x: String,
    /// What the vertical axis shows, with its unit.
    pub y: String,
    /// The horizontal axis' scale.
    pub scale: Scale,
    pub series: Vec<Line>,
}

/// One line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    name: String,
    points: Vec<Point>,
    /// Low and high end at each point; none without a band.
    band: Vec<(f64, f64)>,
}

impl Line {
    /// A line through points `(x, y)`, in their order.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, band: Vec::new() }
    }

    /// The line with a band from `low` to `high` at each of its points.
    pub fn with_band(self, band: Vec<(f64, f64)>) -> Self {
        Self { band, ..self }
    }

    fn check(&self, scale: Scale) -> Result<()> {
        drawable(&self.name, "x", scale, self.points.iter().map(|point| point.0))?;
        drawable(&self.name, "y", Scale::Linear, self.points.iter().map(|point| point.1))?;
        if self.band.is_empty() {
            return Ok(());
        }
        if self.band.len() != self.points.len() {
            let message = format!("a band of {} points for {}", self.band.len(), self.points.len());
            return Err(Error::field(&self.name, message));
        }
        drawable(&self.name, "band", Scale::Linear, self.band.iter().map(|&(low, high)| low + high))
    }

    /// All that the vertical axis must show.
    fn heights(&self) -> impl Iterator<Item = f64> {
        let ends = self.band.iter().flat_map(|&(low, high)| [low, high]);
        self.points.iter().map(|point| point.1).chain(ends)
    }

    /// The band's lower edge and its upper edge back again.
    fn edge(&self) -> impl Iterator<Item = Point> {
        let band = self.points.iter().zip(&self.band);
        let lower = band.clone().map(|(point, &(low, _))| (point.0, low));
        lower.chain(band.rev().map(|(point, &(_, high))| (point.0, high)))
    }

    fn draw(&self, canvas: &Canvas, mark: Mark) -> Drawn {
        canvas.line(mark, self.points.iter().copied())?;
        canvas.marks(mark, &self.points)
    }
}

impl Chart for Lines {
    fn svg(&self) -> Result<String> {
        some_series(&self.series)?;
        self.series.iter().try_for_each(|line| line.check(self.scale))?;
        let lines = || self.series.iter().enumerate().map(|(at, line)| (Mark::of(at), line));
        let widths = self.series.iter().flat_map(|line| line.points.iter().map(|point| point.0));
        let frame = Frame {
            title: &self.title,
            x: (&self.x, Axis::around(self.scale, widths)),
            y: (&self.y, Axis::around(Scale::Linear, self.series.iter().flat_map(Line::heights))),
            series: self.series.iter().map(|line| line.name.as_str()).collect(),
        };
        frame.draw(|canvas| {
            let banded = |(_, line): &(Mark, &Line)| !line.band.is_empty();
            lines().filter(banded).try_for_each(|(mark, line)| canvas.fill(mark, line.edge()))?;
            lines().try_for_each(|(mark, line)| line.draw(canvas, mark))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Line>, scale: Scale) -> Lines {
        Lines { title: "Title".into(), x: "tokens".into(), y: "loss".into(), scale, series }
    }

    fn count(svg: &str, tag: &str, colour: &str) -> usize {
        svg.lines().filter(|line| line.starts_with(tag) && line.contains(colour)).count()
    }

    #[test]
    fn every_series_has_its_line_its_marks_and_its_band() {
        let points: Vec<Point> = (1..=30).map(|at| (f64::from(at), 1.0 / f64::from(at))).collect();
        let band = points.iter().map(|&(_, y)| (y - 0.1, y + 0.1)).collect();
        let lines =
            vec![Line::new("training", points.clone()).with_band(band), Line::new("held out", points)];
        let svg = chart(lines, Scale::Log).svg().unwrap();
        for text in ["Title", "tokens", "loss", "training", "held out"] {
            assert!(svg.contains(&format!(">\n{text}\n</text>")), "{text}");
        }
        let (first, second) = ("#0072B2", "#D55E00");
        // One is the legend's.
        assert_eq!((count(&svg, "<polyline", first), count(&svg, "<polyline", second)), (2, 2));
        assert_eq!((count(&svg, "<circle", first), count(&svg, "<polygon", first)), (11, 1));
        assert_eq!(count(&svg, "<polygon", second), 11);
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let line = |points: &[Point]| vec![Line::new("a", points.to_vec())];
        let banded = |band: &[Point]| vec![line(&[(1.0, 1.0)]).remove(0).with_band(band.to_vec())];
        let table = [
            (vec![], "series: empty"),
            (line(&[]), "a: empty"),
            (line(&[(1.0, 1.0), (2.0, f64::NAN)]), "not a finite number: y[1] of a"),
            (line(&[(f64::INFINITY, 1.0)]), "not a finite number: x[0] of a"),
            (line(&[(0.0, 1.0)]), "a: x[0] is not positive, on a logarithmic axis: 0"),
            (banded(&[(0.0, 1.0), (0.0, 1.0)]), "a: a band of 2 points for 1"),
            (banded(&[(f64::NEG_INFINITY, 1.0)]), "not a finite number: band[0] of a"),
        ];
        for (series, want) in table {
            assert_eq!(chart(series, Scale::Log).svg().unwrap_err().to_string(), want);
        }
        assert!(chart(line(&[(0.0, 1.0)]), Scale::Linear).svg().is_ok());
    }
}
