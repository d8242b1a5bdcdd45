//! Where the data are drawn: values become pixels.

use plotters::{
    backend::SVGBackend,
    chart::ChartContext,
    coord::{Shift, cartesian::Cartesian2d},
    drawing::{DrawingArea, DrawingAreaErrorKind},
};

use super::{axis::Axis, mark::Mark};

/// Part of the picture, whose places are pixels.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// What drawing gives.
pub(super) type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;
/// Pixels from the left and from the top.
pub(super) type Pixel = (i32, i32);
/// Values on both axes.
pub(super) type Point = (f64, f64);

/// Radius of a mark, in pixels.
pub(super) const RADIUS: f64 = 4.0;
/// Marks on a line of many points, at most.
const MARKS: usize = 12;

/// The whole picture and the two axes of the data in it.
pub(super) struct Canvas<'a, 'b> {
    pub root: &'b Area<'a>,
    pub axes: ChartContext<'b, SVGBackend<'a>, Cartesian2d<Axis, Axis>>,
}

impl Canvas<'_, '_> {
    fn pixels(&self, points: impl IntoIterator<Item = Point>) -> Vec<Pixel> {
        points.into_iter().map(|point| self.axes.backend_coord(&point)).collect()
    }

    /// Draws a line through `points`.
    pub(super) fn line(&self, mark: Mark, points: impl IntoIterator<Item = Point>) -> Drawn {
        mark.line(self.root, self.pixels(points))
    }

    /// Fills what `points` enclose.
    pub(super) fn fill(&self, mark: Mark, points: impl IntoIterator<Item = Point>) -> Drawn {
        mark.fill(self.root, self.pixels(points))
    }

    /// Draws marks at `points`, or at some of them where there are many.
    pub(super) fn marks(&self, mark: Mark, points: &[Point]) -> Drawn {
        let step = points.len().div_ceil(MARKS).max(1);
        points.iter().step_by(step).try_for_each(|&point| self.mark(mark, point, RADIUS))
    }

    /// Draws one mark; `radius` is in pixels.
    pub(super) fn mark(&self, mark: Mark, point: Point, radius: f64) -> Drawn {
        mark.draw(self.root, self.axes.backend_coord(&point), radius)
    }
}
