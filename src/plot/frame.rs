//! What every chart has around its data: title, legend, axes.

use plotters::{
    backend::SVGBackend,
    chart::ChartBuilder,
    drawing::IntoDrawingArea,
    style::{
        BLACK, IntoTextStyle, RGBColor, TRANSPARENT, TextStyle, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    SIZE,
    axis::Axis,
    canvas::{Area, Canvas, Drawn, Pixel, RADIUS},
    mark::Mark,
};
use crate::{Error, Result};

/// Heights of the letters, in pixels.
const TITLE: f64 = 20.0;
const TEXT: f64 = 15.0;
/// Width of a letter over its height; of a wide font, so that nothing overlaps in any.
const ASPECT: f64 = 0.6;
/// Between the data and the edges, in pixels.
const MARGIN: i32 = 30;
/// Width that title and legend may have, in pixels.
const ROOM: i32 = SIZE.0 as i32 - 2 * MARGIN;
/// Height of a line of the title, in pixels.
const TITLE_ROW: i32 = 28;
/// Height of a row of the legend, in pixels.
const ROW: i32 = 24;
/// Length of the line in front of a series' name, in pixels.
const SAMPLE: i32 = 28;
/// Between that line and the name, in pixels.
const GAP: i32 = 8;
const GRID: RGBColor = RGBColor(225, 225, 225);

/// A chart but for its data.
pub(super) struct Frame<'a> {
    pub title: &'a str,
    pub x: (&'a str, Axis),
    pub y: (&'a str, Axis),
    /// Names of the series, in the order of their marks.
    pub series: Vec<&'a str>,
}

impl Frame<'_> {
    /// Draws the frame, and what `data` draws into it, as an SVG document.
    pub(super) fn draw(self, data: impl FnOnce(&Canvas) -> Drawn) -> Result<String> {
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        self.draw_on(&root, data).map_err(|e| Error::Internal(format!("drawing a chart: {e}")))?;
        drop(root);
        Ok(svg)
    }

    fn draw_on(self, root: &Area, data: impl FnOnce(&Canvas) -> Drawn) -> Drawn {
        root.fill(&WHITE)?;
        let top = self.heading(root)?;
        let top = self.legend(root, top)?;
        let canvas = self.axes(root, top)?;
        data(&canvas)?;
        root.present()
    }

    /// Draws the title and returns where it ends, in pixels from the top.
    fn heading(&self, root: &Area) -> Drawn<i32> {
        let mut y = MARGIN;
        for line in title_lines(self.title) {
            root.draw_text(&line, &text(TITLE, HPos::Center), (SIZE.0 as i32 / 2, y))?;
            y += TITLE_ROW;
        }
        Ok(y)
    }

    /// Draws the legend below `top` and returns where it ends, in pixels from the top.
    fn legend(&self, root: &Area, top: i32) -> Drawn<i32> {
        let places = grid(&self.series, top);
        for (series, (&name, &(x, y))) in self.series.iter().zip(&places).enumerate() {
            let mark = Mark::of(series);
            mark.line(root, vec![(x, y), (x + SAMPLE, y)])?;
            mark.draw(root, (x + SAMPLE / 2, y), RADIUS)?;
            root.draw_text(name, &text(TEXT, HPos::Left), (x + SAMPLE + GAP, y))?;
        }
        Ok(places.last().map_or(top, |(_, y)| y + ROW))
    }

    /// Draws both axes, with the grid, below `top`.
    fn axes<'a, 'b>(self, root: &'b Area<'a>, top: i32) -> Drawn<Canvas<'a, 'b>> {
        let ((x_text, x), (y_text, y)) = (self.x, self.y);
        let widest = y.ticks().into_iter().map(|tick| width(&y.label(tick), TEXT)).max().unwrap_or(0);
        let mut axes = ChartBuilder::on(root)
            .margin_top(top)
            .margin_right(MARGIN)
            .margin_bottom(12)
            .margin_left(12)
            .x_label_area_size(54)
            .y_label_area_size(widest + 40)
            .build_cartesian_2d(x, y)?;
        axes.configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .set_all_tick_mark_size(5)
            .label_style(text(TEXT, HPos::Left))
            .x_desc(x_text)
            .y_desc(y_text)
            .draw()?;
        Ok(Canvas { root, axes })
    }
}

/// Where the entries of the legend begin, in columns that hold the longest name, from `top` down.
fn grid(names: &[&str], top: i32) -> Vec<Pixel> {
    let column = names.iter().map(|name| SAMPLE + GAP + width(name, TEXT)).max().unwrap_or(0) + 2 * GAP;
    let columns = (ROOM / column.max(1)).max(1);
    (0..).take(names.len()).map(|at| (MARGIN + at % columns * column, top + at / columns * ROW)).collect()
}

/// The title's lines, none wider than there is room unless it is a single word.
fn title_lines(title: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in title.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line, TITLE) + width(word, TITLE) < ROOM => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Width of a text, in pixels, in a font that is rather wide.
fn width(text: &str, height: f64) -> i32 {
    (text.chars().count() as f64 * height * ASPECT).ceil() as i32
}

/// The style of texts whose letters have this height, in pixels.
fn text(height: f64, anchor: HPos) -> TextStyle<'static> {
    // The backend divides by this.
    ("sans-serif", height * 1.24, &BLACK).into_text_style(&SIZE).pos(Pos::new(anchor, VPos::Center))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_columns_that_hold_the_longest() {
        let places = |count: usize| grid(&vec!["twenty letters, long"; count], 50);
        // 28 + 8 + 180 + 16 pixels each, of 840.
        assert_eq!(places(4), [(30, 50), (262, 50), (494, 50), (30, 74)]);
        assert_eq!(grid(&["n".repeat(200).as_str(), "n"], 50), [(30, 50), (30, 74)]);
    }

    #[test]
    fn long_titles_have_several_lines() {
        assert_eq!(title_lines(&"word ".repeat(20)), ["word ".repeat(14).trim(), "word ".repeat(6).trim()]);
        assert_eq!(title_lines(&"n".repeat(200)), ["n".repeat(200)]);
        assert!(title_lines("").is_empty());
    }
}
