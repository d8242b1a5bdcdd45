//! The picture of an SVG document.

use std::sync::Arc;

use resvg::{
    render,
    tiny_skia::{Pixmap, Transform},
    usvg::{Options, Tree, fontdb},
};

use crate::{Error, Result};

/// Draws the document at its own size and packs the pixels as PNG.
pub(super) fn of_svg(svg: &str) -> Result<Vec<u8>> {
    let options = Options { fontdb: Arc::new(fonts()), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(failed)?;
    let size = tree.size().to_int_size();
    let mut pixmap =
        Pixmap::new(size.width(), size.height()).ok_or_else(|| failed("no memory for the pixels"))?;
    render(&tree, Transform::identity(), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(failed)
}

/// The one font there is, for every `sans-serif`.
fn fonts() -> fontdb::Database {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_source(fontdb::Source::Binary(Arc::new(epaint_default_fonts::UBUNTU_LIGHT)));
    let family = fonts.faces().flat_map(|face| &face.families).map(|(name, _)| name.clone()).next();
    fonts.set_sans_serif_family(family.unwrap_or_default());
    fonts
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("PNG of a chart: {error}"))
}
