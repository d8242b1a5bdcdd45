//! How the values of several groups are distributed, over the same bins.

use std::ops::Range;

use super::{
    Chart,
    axis::{Axis, Scale, span},
    canvas::Point,
    drawable,
    frame::Frame,
    mark::Mark,
    some_series,
};
use crate::{Error, Result};

/// Groups that are filled, at most: more become one murk.
const FILLED: usize = 3;

/// A chart of distributions; its vertical axis shows shares, so that groups of different sizes compare.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    pub title: String,
    /// What the values are, with their unit.
    pub x: String,
    /// The values' scale; bins are equally wide on it.
    pub scale: Scale,
    /// Number of bins from the smallest to the largest of all values.
    pub bins: usize,
    pub groups: Vec<Group>,
}

/// Values that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: String,
    pub values: Vec<f64>,
}

/// The bins that all groups share.
struct Bins {
    scale: Scale,
    places: Range<f64>,
    count: usize,
}

impl Bins {
    fn around(histogram: &Histogram) -> Self {
        let scale = histogram.scale;
        let values = histogram.groups.iter().flat_map(|group| &group.values);
        let Range { start, end } = span(values.map(|&value| scale.place(value)));
        let places = if start < end { start..end } else { start - 0.5..end + 0.5 };
        Self { scale, places, count: histogram.bins }
    }

    /// The value at which bin `at` begins.
    fn edge(&self, at: usize) -> f64 {
        let Range { start, end } = self.places;
        self.scale.value(start + (end - start) * at as f64 / self.count as f64)
    }

    fn middle(&self, at: usize) -> f64 {
        let place = |at| self.scale.place(self.edge(at));
        self.scale.value((place(at) + place(at + 1)) / 2.0)
    }

    fn shares(&self, values: &[f64]) -> Vec<f64> {
        let Range { start, end } = self.places;
        let mut shares = vec![0.0; self.count];
        for &value in values {
            let place = (self.scale.place(value) - start) / (end - start) * self.count as f64;
            shares[(place as usize).min(self.count - 1)] += 1.0 / values.len() as f64;
        }
        shares
    }

    /// The outline of a group: from the axis up, along its bins, of which the first and the last are not empty, and
    /// down again.
    fn outline(&self, shares: &[f64]) -> Vec<Point> {
        let full = |share: &f64| *share > 0.0;
        let first = shares.iter().position(full).unwrap_or(0);
        let end = shares.iter().rposition(full).map_or(0, |last| last + 1);
        let top = |at: usize| [(self.edge(at), shares[at]), (self.edge(at + 1), shares[at])];
        let ends = [first, end].map(|at| (self.edge(at), 0.0));
        ends[..1].iter().copied().chain((first..end).flat_map(top)).chain(ends[1..].iter().copied()).collect()
    }

    /// The middles of what bins are not empty.
    fn tops(&self, shares: &[f64]) -> Vec<Point> {
        let full = shares.iter().enumerate().filter(|(_, share)| **share > 0.0);
        full.map(|(at, &share)| (self.middle(at), share)).collect()
    }
}

impl Histogram {
    fn check(&self) -> Result<()> {
        some_series(&self.groups)?;
        if self.bins == 0 {
            return Err(Error::field("bins", "none"));
        }
        let check = |group: &Group| drawable(&group.name, "value", self.scale, group.values.iter().copied());
        self.groups.iter().try_for_each(check)
    }
}

impl Chart for Histogram {
    fn svg(&self) -> Result<String> {
        self.check()?;
        let bins = Bins::around(self);
        let shares: Vec<Vec<f64>> = self.groups.iter().map(|group| bins.shares(&group.values)).collect();
        let frame = Frame {
            title: &self.title,
            x: (&self.x, Axis::around(self.scale, [bins.edge(0), bins.edge(bins.count)])),
            y: ("share of the group", Axis::from_zero(shares.iter().flatten().copied())),
            series: self.groups.iter().map(|group| group.name.as_str()).collect(),
        };
        frame.draw(|canvas| {
            shares.iter().enumerate().try_for_each(|(at, shares)| {
                let (mark, outline) = (Mark::of(at), bins.outline(shares));
                if self.groups.len() <= FILLED {
                    canvas.fill(mark, outline.iter().copied())?;
                }
                canvas.line(mark, outline)?;
                canvas.marks(mark, &bins.tops(shares))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[&[f64]], scale: Scale, bins: usize) -> Histogram {
        let group =
            |(at, values): (usize, &&[f64])| Group { name: format!("g{at}"), values: values.to_vec() };
        let groups = values.iter().enumerate().map(group).collect();
        Histogram { title: "Variances".into(), x: "variance".into(), scale, bins, groups }
    }

    #[test]
    fn shares_of_shared_bins() {
        let chart = chart(&[&[0.0, 1.0, 4.0], &[3.9, 3.5]], Scale::Linear, 4);
        let bins = Bins::around(&chart);
        let third = 1.0 / 3.0;
        assert_eq!(bins.shares(&chart.groups[0].values), [third, third, 0.0, third]);
        assert_eq!(bins.shares(&chart.groups[1].values), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!([0, 1, 4].map(|at| bins.edge(at)), [0.0, 1.0, 4.0]);
    }

    #[test]
    fn bins_of_equal_ratios() {
        let bins = Bins::around(&chart(&[&[0.01, 100.0]], Scale::Log, 4));
        let near = |got: f64, want: f64| (got / want - 1.0).abs() < 1e-12;
        assert!(near(bins.edge(1), 0.1) && near(bins.middle(1), 0.1 * 10f64.sqrt()));
        assert_eq!(bins.shares(&[0.05, 50.0]), [0.5, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn an_outline_begins_and_ends_with_its_group() {
        let bins = Bins::around(&chart(&[&[0.0, 4.0]], Scale::Linear, 4));
        let want =
            [(1.0, 0.0), (1.0, 0.5), (2.0, 0.5), (2.0, 0.0), (3.0, 0.0), (3.0, 0.5), (4.0, 0.5), (4.0, 0.0)];
        assert_eq!(bins.outline(&bins.shares(&[1.5, 3.5])), want);
    }

    #[test]
    fn every_group_is_drawn_and_named() {
        let svg = chart(&[&[1.0, 2.0], &[3.0]], Scale::Log, 10).svg().unwrap();
        for (name, colour) in [("g0", "#0072B2"), ("g1", "#D55E00")] {
            assert!(svg.contains(&format!(">\n{name}\n</text>")), "{name}");
            let lines = svg.lines().filter(|line| line.starts_with("<polyline") && line.contains(colour));
            // One is the legend's.
            assert_eq!(lines.count(), 2, "{name}");
        }
        assert!(chart(&[&[2.0, 2.0]], Scale::Linear, 3).svg().is_ok());
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let table: [(&[&[f64]], usize, &str); 5] = [
            (&[], 3, "series: empty"),
            (&[&[1.0]], 0, "bins: none"),
            (&[&[1.0], &[]], 3, "g1: empty"),
            (&[&[1.0, f64::NAN]], 3, "not a finite number: value[1] of g0"),
            (&[&[1.0, 0.0]], 3, "g0: value[1] is not positive, on a logarithmic axis: 0"),
        ];
        for (values, bins, want) in table {
            assert_eq!(chart(values, Scale::Log, bins).svg().unwrap_err().to_string(), want);
        }
    }
}
