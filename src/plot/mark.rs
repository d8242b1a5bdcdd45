//! The colour and the shape that tell a series from the others.

use plotters::{
    element::{Circle, PathElement, Polygon},
    style::{Color, RGBColor},
};

use super::canvas::{Area, Drawn, Pixel};

/// Width of a series' line, in pixels.
const LINE: u32 = 2;
/// Opacity of what a series fills.
const PALE: f64 = 0.15;

/// The palette of Okabe and Ito (2008), strongest on white first.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(240, 228, 66),
];

/// One shape fewer than colours, so that the pairs of both repeat only after 56 series.
const SHAPES: [Shape; 7] = [
    Shape::Circle,
    Shape::Polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
    Shape::Polygon(&[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)]),
    Shape::Polygon(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
    Shape::Polygon(&[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)]),
    Shape::Polygon(&[
        (-0.4, -1.2),
        (0.4, -1.2),
        (0.4, -0.4),
        (1.2, -0.4),
        (1.2, 0.4),
        (0.4, 0.4),
        (0.4, 1.2),
        (-0.4, 1.2),
        (-0.4, 0.4),
        (-1.2, 0.4),
        (-1.2, -0.4),
        (-0.4, -0.4),
    ]),
    Shape::Polygon(&[(-0.6, -1.2), (0.6, -1.2), (1.2, 0.0), (0.6, 1.2), (-0.6, 1.2), (-1.2, 0.0)]),
];

/// The outline of a mark.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    Circle,
    /// Corners around the mark's place, in radii.
    Polygon(&'static [(f64, f64)]),
}

/// How a series is marked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mark {
    pub colour: RGBColor,
    pub shape: Shape,
}

impl Mark {
    /// The mark of the series with this number, from 0.
    pub(super) fn of(series: usize) -> Self {
        Self { colour: COLOURS[series % COLOURS.len()], shape: SHAPES[series % SHAPES.len()] }
    }

    /// Draws the mark itself; `radius` is in pixels.
    pub(super) fn draw(&self, on: &Area, (x, y): Pixel, radius: f64) -> Drawn {
        let style = self.colour.filled();
        match self.shape {
            Shape::Circle => on.draw(&Circle::new((x, y), radius.round() as i32, style)),
            Shape::Polygon(corners) => {
                let corner = |&(right, down): &(f64, f64)| {
                    (x + (right * radius).round() as i32, y + (down * radius).round() as i32)
                };
                on.draw(&Polygon::new(corners.iter().map(corner).collect::<Vec<_>>(), style))
            }
        }
    }

    /// Draws a line through `corners`.
    pub(super) fn line(&self, on: &Area, corners: Vec<Pixel>) -> Drawn {
        on.draw(&PathElement::new(corners, self.colour.stroke_width(LINE)))
    }

    /// Fills what `corners` enclose, so that what is behind can be seen.
    pub(super) fn fill(&self, on: &Area, corners: Vec<Pixel>) -> Drawn {
        on.draw(&Polygon::new(corners, self.colour.mix(PALE)))
    }
}
