//! The tile in plain Rust, for every processor.

use super::{
    PANEL, Tile,
    pack::{Block, Codes, OFFSET, QUAD, WIDE},
};

type Dots = [[i32; WIDE]; PANEL / WIDE];

/// Outputs of a panel for `R` tokens.
pub fn tile<const R: usize>(panel: &[Block], rows: [&[Codes]; R]) -> Tile<R> {
    rows.map(|row| {
        let mut sums = [0.0; PANEL];
        for (block, x) in panel.iter().zip(row) {
            let dots = dots(block, x);
            let read = dots.as_flattened().iter().zip(block.scales.as_flattened());
            for (sum, (dot, scale)) in sums.iter_mut().zip(read) {
                *sum = (*dot as f32).mul_add(scale * x.scale, *sum);
            }
        }
        sums
    })
}

/// Sums of products of one group.
fn dots(block: &Block, x: &Codes) -> Dots {
    let mut dots = Dots::default();
    for (w, x) in block.codes.iter().zip(&x.codes) {
        let x = x.map(|code| i32::from(code) - i32::from(OFFSET));
        for (dot, w) in dots.as_flattened_mut().iter_mut().zip(w.as_flattened()) {
            *dot += (0..QUAD).map(|j| x[j] * i32::from(w[j])).sum::<i32>();
        }
    }
    dots
}
