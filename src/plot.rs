//! Charts for reports: each is drawn once, as SVG, and the PNG is made of that very SVG.
//!
//! A chart is its data ([`Lines`], [`Histogram`], [`Reliability`]); what cannot be drawn (no data, numbers that are not
//! finite or do not fit a logarithmic axis) is an error that names the series. Series differ in colour (Okabe and Ito's
//! palette, which the colour-blind tell apart) and in the shape of their marks; the legend stands above the data. The
//! font of the PNG is part of the program, so that text appears where no font is installed.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

mod axis;
mod canvas;
mod frame;
mod histogram;
mod lines;
mod mark;
mod png;
mod reliability;

pub use axis::Scale;
pub use histogram::{Group, Histogram};
pub use lines::{Line, Lines};
pub use reliability::{Bin, Curve, Reliability};

/// Width and height of every chart, in pixels.
pub const SIZE: (u32, u32) = (900, 600);

/// What can be drawn.
pub trait Chart {
    /// Draws the chart as an SVG document.
    fn svg(&self) -> Result<String>;

    /// Writes the chart to `stem.svg` and `stem.png`.
    fn save(&self, stem: &Path) -> Result<()> {
        let svg = self.svg()?;
        let png = png::of_svg(&svg)?;
        write(&with_ending(stem, ".svg"), svg.as_bytes())?;
        write(&with_ending(stem, ".png"), &png)
    }
}

/// Appends `ending`, also where the name has a dot: `Path::with_extension` would make `qwen3-0.svg` of `qwen3-0.6b`.
fn with_ending(stem: &Path, ending: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(Error::io(path))
}

/// Refuses a chart without series.
fn some_series<T>(series: &[T]) -> Result<()> {
    if series.is_empty() { Err(Error::field("series", "empty")) } else { Ok(()) }
}

/// Refuses no values, and values that `scale` has no place for; `series` and `what` name them.
fn drawable(series: &str, what: &str, scale: Scale, values: impl IntoIterator<Item = f64>) -> Result<()> {
    let mut count = 0;
    for (at, value) in values.into_iter().enumerate() {
        if !value.is_finite() {
            return Err(Error::NotFinite(format!("{what}[{at}] of {series}")));
        }
        if scale == Scale::Log && value <= 0.0 {
            let message = format!("{what}[{at}] is not positive, on a logarithmic axis: {value}");
            return Err(Error::field(series, message));
        }
        count += 1;
    }
    if count == 0 { Err(Error::field(series, "empty")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use resvg::tiny_skia::Pixmap;

    fn chart() -> Lines {
        Lines {
            title: "Loss <of> \"training\" & more".into(),
            x: "step".into(),
            y: "loss".into(),
            scale: Scale::Linear,
            series: vec![Line::new("a & b", vec![(0.0, 1.0), (1.0, 0.5)])],
        }
    }

    fn shares(pixmap: &Pixmap) -> (f64, f64) {
        let share = |wanted: &dyn Fn(u8) -> bool| {
            let found = pixmap.pixels().iter().filter(|pixel| wanted(pixel.red())).count();
            found as f64 / pixmap.pixels().len() as f64
        };
        (share(&|red| red == 255), share(&|red| red < 100))
    }

    #[test]
    fn both_files_are_written_and_the_picture_is_not_blank() {
        let folder = tempfile::tempdir().unwrap();
        chart().save(&folder.path().join("qwen3-0.6b")).unwrap();
        let svg = std::fs::read_to_string(folder.path().join("qwen3-0.6b.svg")).unwrap();
        assert_eq!(svg, chart().svg().unwrap());
        let png = std::fs::read(folder.path().join("qwen3-0.6b.png")).unwrap();
        let pixmap = Pixmap::decode_png(&png).unwrap();
        assert_eq!((pixmap.width(), pixmap.height()), SIZE);
        let (white, dark) = shares(&pixmap);
        assert!(white > 0.8 && dark > 0.005, "{white} {dark}");
    }

    /// Without a font there would be lines but no text.
    #[test]
    fn text_is_in_the_picture() {
        let text = |text: &str| {
            let svg = Lines { title: text.into(), ..chart() }.svg().unwrap();
            shares(&Pixmap::decode_png(&png::of_svg(&svg).unwrap()).unwrap()).1
        };
        assert!(text("A title of forty letters that are drawn.") > text("") + 0.001);
    }

    #[test]
    fn text_is_escaped() {
        let svg = chart().svg().unwrap();
        assert!(svg.contains("Loss &lt;of&gt; &quot;training&quot; &amp; more") && svg.contains("a &amp; b"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let message = chart().save(Path::new("nowhere/x")).unwrap_err().to_string();
        assert!(message.starts_with("nowhere/x.svg: "), "{message}");
    }
}
