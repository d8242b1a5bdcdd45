//! How often what a model is so and so confident of is right.

use plotters::style::RGBColor;

use super::{
    Chart, Scale,
    axis::{Axis, span},
    canvas::{Canvas, Drawn, Point},
    drawable,
    frame::Frame,
    mark::{Mark, Shape},
    some_series,
};
use crate::{Error, Result};

/// Radius of the smallest and of the largest point, in pixels.
const RADII: (f64, f64) = (2.5, 10.0);
const DIAGONAL: Mark = Mark { colour: RGBColor(130, 130, 130), shape: Shape::Circle };

/// A reliability diagram: a calibrated model's points are on the diagonal.
#[derive(Debug, Clone, PartialEq)]
pub struct Reliability {
    pub title: String,
    pub curves: Vec<Curve>,
}

/// One model's bins, by ascending confidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    pub name: String,
    pub bins: Vec<Bin>,
}

/// Predictions of about the same confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bin {
    /// Mean probability that was predicted, 0 to 1.
    pub confidence: f64,
    /// Share of the predictions that came true, 0 to 1.
    pub frequency: f64,
    /// Number of the predictions.
    pub count: usize,
}

impl Bin {
    fn point(&self) -> Point {
        (self.confidence, self.frequency)
    }
}

impl Curve {
    fn check(&self) -> Result<()> {
        for (what, values) in [
            ("confidence", self.bins.iter().map(|bin| bin.confidence).collect::<Vec<_>>()),
            ("frequency", self.bins.iter().map(|bin| bin.frequency).collect()),
        ] {
            drawable(&self.name, what, Scale::Linear, values.iter().copied())?;
            if let Some(at) = values.iter().position(|value| !(0.0..=1.0).contains(value)) {
                let message = format!("{what}[{at}] is not from 0 to 1: {}", values[at]);
                return Err(Error::field(&self.name, message));
            }
        }
        Ok(())
    }

    /// Draws the curve; a point's area is as its count, the largest that of `most`.
    fn draw(&self, canvas: &Canvas, mark: Mark, most: usize) -> Drawn {
        canvas.line(mark, self.bins.iter().map(Bin::point))?;
        self.bins.iter().try_for_each(|bin| {
            let radius = RADII.1 * (bin.count as f64 / most.max(1) as f64).sqrt();
            canvas.mark(mark, bin.point(), radius.max(RADII.0))
        })
    }
}

impl Reliability {
    fn bins(&self) -> impl Iterator<Item = &Bin> {
        self.curves.iter().flat_map(|curve| &curve.bins)
    }

    /// Where both axes begin: at the tenth below the lowest number.
    fn start(&self) -> f64 {
        let lowest = span(self.bins().flat_map(|bin| [bin.confidence, bin.frequency])).start;
        ((lowest * 10.0).ceil() - 1.0).clamp(0.0, 9.0) / 10.0
    }
}

impl Chart for Reliability {
    fn svg(&self) -> Result<String> {
        some_series(&self.curves)?;
        self.curves.iter().try_for_each(Curve::check)?;
        let start = self.start();
        let axis = Axis::between(start - 0.02, 1.02);
        let most = self.bins().map(|bin| bin.count).max().unwrap_or(0);
        let frame = Frame {
            title: &self.title,
            x: ("confidence (a larger point: more predictions)", axis.clone()),
            y: ("frequency", axis),
            series: self.curves.iter().map(|curve| curve.name.as_str()).collect(),
        };
        frame.draw(|canvas| {
            canvas.line(DIAGONAL, [(start, start), (1.0, 1.0)])?;
            let draw = |(at, curve): (usize, &Curve)| curve.draw(canvas, Mark::of(at), most);
            self.curves.iter().enumerate().try_for_each(draw)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Confidence, frequency, count.
    type Row = (f64, f64, usize);

    fn chart(curves: &[&[Row]]) -> Reliability {
        let bin = |&(confidence, frequency, count): &Row| Bin { confidence, frequency, count };
        let curve = |(at, bins): (usize, &&[Row])| Curve {
            name: format!("c{at}"),
            bins: bins.iter().map(bin).collect(),
        };
        Reliability { title: "Calibration".into(), curves: curves.iter().enumerate().map(curve).collect() }
    }

    #[test]
    fn points_grow_with_their_counts() {
        let svg = chart(&[&[(0.55, 0.6, 100), (0.9, 0.8, 25)], &[(0.7, 0.7, 1)]]).svg().unwrap();
        let radius = |radius| svg.matches(&format!(r#" r="{radius}""#)).count();
        // The legend's has the radius of a common mark.
        assert_eq!((radius(10), radius(5), radius(4)), (1, 1, 1));
        assert!(svg.contains(">\nc0\n</text>") && svg.contains(">\nc1\n</text>"));
        assert_eq!(svg.lines().filter(|line| line.contains("#828282")).count(), 1);
    }

    #[test]
    fn axes_begin_below_the_lowest_number() {
        for (lowest, want) in [(0.55, 0.5), (0.5, 0.4), (0.03, 0.0), (0.0, 0.0), (1.0, 0.9)] {
            assert_eq!(chart(&[&[(lowest, 1.0, 1)]]).start(), want, "{lowest}");
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let table: [(&[&[Row]], &str); 4] = [
            (&[], "series: empty"),
            (&[&[]], "c0: empty"),
            (&[&[(0.5, f64::NAN, 1)]], "not a finite number: frequency[0] of c0"),
            (&[&[(1.5, 0.5, 1)]], "c0: confidence[0] is not from 0 to 1: 1.5"),
        ];
        for (curves, want) in table {
            assert_eq!(chart(curves).svg().unwrap_err().to_string(), want);
        }
        assert!(chart(&[&[(0.5, 0.5, 0)]]).svg().is_ok());
    }
}
